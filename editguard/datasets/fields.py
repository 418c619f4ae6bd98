"""Reading the fields of one record: every mistake names the field, with the path that leads to it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self

from editguard.errors import InvalidEdit, closest

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """The value for a message, cut where it is long or deep."""
    return _SHORT.repr(value)


class Fields:
    """The fields of a JSON object, read by name and type.

    A record remembers which of its fields were read (`rest` gives the others), and what was noted about it.
    """

    def __init__(
        self, record: object, what: str = "a record", *, path: str = "", notes: list[tuple[str, str]] | None = None
    ) -> None:
        """Wrap an object.

        Args:
            record: what was read.
            what: what it should be, for messages.
            path: of the object inside the record, e.g. "edit.".
            notes: shared by the objects of one record.

        Raises: InvalidEdit: it is no object.
        """
        if not isinstance(record, Mapping):
            raise InvalidEdit(f"{what} is a JSON object, not {type(record).__name__}.")
        self._record: Mapping[str, Any] = record
        self._path = path
        self._read: set[str] = set()
        self._kept: set[str] = set()
        self.notes: list[tuple[str, str]] = [] if notes is None else notes
        """(name, text) of what was changed or left out while the record was translated."""

    def note(self, name: str, text: str) -> None:
        """Note a change or an omission, so that it can be counted and listed."""
        self.notes.append((name, text))

    def keep(self, name: str) -> None:
        """Count the field among the `rest`, although it was read: it holds more than what became of it."""
        self._kept.add(name)

    def __contains__(self, name: str) -> bool:
        return name in self._record

    def __iter__(self) -> Iterator[str]:
        return iter(self._record)

    def refuse_unknown(self, what: str, known: Sequence[str]) -> Self:
        """Return the object itself; raise InvalidEdit when it has a field that is not among `known`."""
        for name in self._record:
            if name not in known:
                raise InvalidEdit(f"unknown field {name!r} of {what}.{closest(name, known)}")
        return self

    def raw(self, name: str) -> Any:
        """The field's value; raise InvalidEdit when there is none."""
        self._read.add(name)
        if name not in self._record:
            raise InvalidEdit(f"the field {self._path + name!r} is missing.")
        return self._record[name]

    def text(self, name: str) -> str:
        """The field as text."""
        value = self.raw(name)
        if not isinstance(value, str):
            raise InvalidEdit(f"the field {self._path + name!r} is text, not {shown(value)}.")
        return self._valid(name, value)

    def optional_text(self, name: str) -> str | None:
        """The field as text; None where it is missing or null."""
        self._read.add(name)
        return None if self._record.get(name) is None else self.text(name)

    def identifier(self, name: str) -> str:
        """The field, a whole number or text, as text."""
        value = self.raw(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise InvalidEdit(f"the field {self._path + name!r} is a whole number or a text, not {shown(value)}.")
        return self._valid(name, value)

    def items(self, name: str, *, required: bool = False) -> list[Any]:
        """The field as a list; an empty one where it is missing and not required."""
        self._read.add(name)
        value = self.raw(name) if required else self._record.get(name, [])
        if not isinstance(value, list):
            raise InvalidEdit(f"the field {self._path + name!r} is a list, not {shown(value)}.")
        return value

    def texts(self, name: str, *, required: bool = False) -> tuple[str, ...]:
        """The field as texts; none where it is missing and not required."""
        values = self.items(name, required=required)
        if not all(isinstance(value, str) for value in values):
            raise InvalidEdit(f"the field {self._path + name!r} is a list of texts, not {shown(values)}.")
        return tuple(self._valid(name, value) for value in values)

    def object(self, name: str) -> Fields:
        """The field as an object."""
        value = self.raw(name)
        return Fields(value, f"the field {self._path + name!r}", path=f"{self._path}{name}.", notes=self.notes)

    def optional_object(self, name: str) -> Fields | None:
        """The field as an object; None where it is missing or null."""
        self._read.add(name)
        return None if self._record.get(name) is None else self.object(name)

    def objects(self, name: str, *, required: bool = False) -> list[Fields]:
        """The field as a list of objects; an empty one where it is missing and not required."""
        return [
            Fields(value, f"{self._path}{name}[{place}]", path=f"{self._path}{name}[{place}].", notes=self.notes)
            for place, value in enumerate(self.items(name, required=required))
        ]

    def rest(self) -> dict[str, Any]:
        """The fields that nobody has read, and those to keep.

        Raises: InvalidEdit: they cannot be written as JSON again.
        """
        left = {name: value for name, value in self._record.items() if name in self._kept or name not in self._read}
        try:
            json.dumps(left, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError) as mistake:
            raise InvalidEdit(f"the fields {', '.join(map(shown, left))} cannot be kept: {mistake}") from mistake
        return left

    def _valid(self, name: str, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as mistake:
            raise InvalidEdit(f"the field {self._path + name!r} holds half a character ({mistake.reason}).") from None
        return value
