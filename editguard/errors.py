"""Every exception of editguard: each says what is wrong, where, and how to mend it.

All derive from `EditguardError`; the pytest plugin and the command line print the message alone, without a
traceback, because every one of them is a mistake that the user can mend.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class EditguardError(Exception):
    """Base of all errors that a user can mend; `str()` of it is the whole message."""


def closest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" when a known name is near `name`, else an empty string."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class InvalidEdit(EditguardError, ValueError):
    """An edit request or case says something that cannot be carried out."""


class ConflictingEdits(InvalidEdit):
    """Two requests of one batch want different targets for the same fact."""


class UnknownMethod(EditguardError, LookupError):
    """No editing method of that name is registered."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, sorted(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        return (
            f"unknown editing method {self.name!r}; registered are {', '.join(self.known)}."
            f"{closest(self.name, self.known)}"
        )


class MethodRefused(EditguardError):
    """An editing method cannot do what it was asked on this model; the message gives the reason."""


class MissingMaterial(MethodRefused):
    """A method was given no text, or no records, to prepare from; it could edit this model otherwise."""


class InvalidSettings(EditguardError, ValueError):
    """A setting of a method has an unknown name or an impossible value."""


class ModelNotLoaded(EditguardError):
    """A model directory or hub name could not be loaded."""


class UnsupportedModel(EditguardError):
    """The model's architecture has no row in the table of families."""


class UnknownPart(EditguardError, LookupError):
    """A model has no layer or part of the requested name."""


class AmbiguousTokens(EditguardError, ValueError):
    """The tokenizer does not keep a boundary (prompt | answer, or the subject's end) that is needed."""


class ModelChanged(EditguardError):
    """Weights are not the bytes they should be after a rollback."""


class UnusableRecord(InvalidEdit):
    """A record is read, but no edit can be made of it; `reason` names the kind of it in one word."""

    def __init__(self, reason: str, problem: str) -> None:
        self.reason, self.problem = reason, problem
        super().__init__(reason, problem)

    def __str__(self) -> str:
        return self.problem


class MalformedRecord(EditguardError, ValueError):
    """A record of a file of edit cases cannot be read or used: names file, position and field.

    `reason` is "malformed", or that of an `UnusableRecord`.
    """

    def __init__(self, path: object, position: object, problem: str, reason: str = "malformed") -> None:
        self.path, self.position, self.problem, self.reason = str(path), str(position), problem, reason
        super().__init__(self.path, self.position, problem, reason)

    def __str__(self) -> str:
        return f"{self.path}, record {self.position}: {self.problem}"


class UnpairedScores(EditguardError, ValueError):
    """Two sets of per-case values that should be compared do not hold the same cases."""


class BaselineUnreadable(EditguardError):
    """A baseline file is corrupt, of a foreign version, or cannot be read or written."""


class HistoryUnreadable(EditguardError):
    """The database of runs is missing, damaged, of a newer version, of something else, or cannot be written."""


class ConfigurationError(EditguardError, ValueError):
    """An option of the configuration has a value that cannot be used."""


class EndpointFailed(EditguardError):
    """A model behind a URL cannot be reached, refuses, or answers in another form than asked."""


class CacheError(EditguardError):
    """The cache directory cannot be read or written."""


class MemoryFull(MethodRefused):
    """A memory of edits has no room for more rows."""


class MemoryUnreadable(EditguardError):
    """A file of a memory of edits is missing, damaged or of a foreign version, or cannot be written."""


class ReleaseError(EditguardError):
    """A release or a candidate is damaged or incomplete, does not fit the model, or cannot be written."""


class PromptTooLong(EditguardError, ValueError):
    """A prompt, or a prompt with its answer, does not fit the model's context; or it has no tokens at all."""

    def __init__(self, prompt: str, tokens: int, limit: int | None) -> None:
        self.prompt, self.tokens, self.limit = prompt, tokens, limit
        super().__init__(prompt, tokens, limit)

    def __str__(self) -> str:
        shown = self.prompt if len(self.prompt) <= 80 else f"{self.prompt[:40]}...{self.prompt[-37:]}"
        if not self.tokens:
            return f"the prompt {shown!r} has no tokens, so the model has nothing to continue."
        return (
            f"the prompt {shown!r} has {self.tokens} tokens, more than the model's context of {self.limit}: "
            "shorten it, or use fewer demonstrations."
        )


class WorkersLost(EditguardError):
    """Processes that work on a study were lost again and again, over some of its parts or before they began."""

    def __init__(self, items: Iterable[str], why: str, tries: int) -> None:
        self.items, self.why, self.tries = list(items), why, tries
        super().__init__(self.items, why, tries)

    def __str__(self) -> str:
        cure = (
            "Often there is too little memory: give fewer --workers. Complete parts are kept; the same command goes on."
        )
        if not self.items:
            return f"workers were lost {self.tries} times before they began ({self.why}). {cure}"
        return f"{self.tries} workers were lost one after another at {'; '.join(self.items)} ({self.why}). {cure}"
