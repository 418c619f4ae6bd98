"""Where the settings of a method come from, and that each of them says so.

A field takes the first value found in this order: an explicit override; the file `editguard.toml` in the model's
own folder; the published value for a model of that family *and* size; a value derived from the model's depth;
the default of the dataclass. Values published for one model are never used for another in silence. The first two may
ask for what a causal trace of the model has found (`traced_layers`).
"""

from __future__ import annotations

import json
import math
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast, get_args, get_origin, get_type_hints

from editguard.errors import InvalidSettings, closest
from editguard.methods.traced_layers import asks_for_tracing, traced

if TYPE_CHECKING:
    from editguard.methods.protocol import EditMethod
    from editguard.models.language_model import LanguageModel

FILE_NAME = "editguard.toml"


@dataclass(frozen=True)
class Published:
    """Settings that a source gives for the models of one family and size.

    Attributes:
        family: the model type, as in the table of model families.
        layers, d_model: number of blocks, and width of the residual stream.
        source: who published them.
        values: setting name -> value.
        d_ff: width of the keys, where the other figures do not tell two models apart.
    """

    family: str
    layers: int
    d_model: int
    source: str
    values: Mapping[str, Any]
    d_ff: int | None = None


@dataclass(frozen=True)
class Shape:
    """What of a model decides its settings; the fingerprint is asked for where a trace has to be of this model."""

    family: str
    layers: int
    d_model: int
    directory: Path | None = None
    d_ff: int | None = None
    fingerprint: Callable[[], str] | None = None
    encoder_layers: int = 0
    """How many of the layers are an encoder's, the first ones; 0 for a decoder alone."""


@dataclass(frozen=True)
class Recipe:
    """How a method finds its settings for a model.

    Attributes:
        type: the dataclass of the settings.
        published: rows for models of known family and size.
        derived: number of layers -> settings that follow from the depth, with the rule in words.
        derived_with_encoder: the same from the numbers of encoder and decoder layers; by default `derived` of them all.
        inner: registered name of the method that this one wraps, or nothing.
    """

    type: type
    published: tuple[Published, ...] = ()
    derived: Callable[[int], Mapping[str, tuple[Any, str]]] = field(default=lambda _layers: {})
    derived_with_encoder: Callable[[int, int], Mapping[str, tuple[Any, str]]] | None = None
    inner: str = ""


def joined(own: type, inner: Recipe, name: str) -> Recipe:
    """Return the recipe of a method that wraps the one of that name: one flat table of settings of both.

    The settings are an instance of both dataclasses. What is published and derived for the inner method, and what the
    model's folder says of it, holds for the wrapper too, unless that folder has a value for the wrapper itself.
    """
    shared = {item.name for item in fields(own)} & {item.name for item in fields(inner.type)}
    if shared:
        raise TypeError(f"{own.__name__} and {inner.type.__name__} both have the settings {', '.join(sorted(shared))}")

    def check(self: Any) -> None:
        for part in (inner.type, own):
            if (checks := getattr(part, "__post_init__", None)) is not None:
                checks(self)

    # A field keeps the dataclass that declares it, so that its annotation is read in that one's module.
    both = type(f"{own.__name__}Over{inner.type.__name__}", (own, inner.type), {"__post_init__": check})
    return replace(inner, type=dataclass(frozen=True, kw_only=True)(both), inner=name)


@dataclass(frozen=True)
class Resolved:
    """Settings, and for each field where it comes from."""

    settings: Any
    provenance: Mapping[str, str]


def in_force(method: object) -> dict[str, Any] | None:
    """A method's settings as plain data; None where it has none that are a dataclass.

    Numbers that JSON has no form for are words: "Infinity".
    """
    settings = getattr(method, "settings", None)
    if not is_dataclass(settings) or isinstance(settings, type):
        return None
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings), default=str), parse_constant=str)
    return plain


def shape_of(model: LanguageModel) -> Shape:
    """Return what decides a model's default settings."""
    anatomy = model.anatomy
    folder = Path(str(getattr(model.module, "name_or_path", "") or model.name))
    return Shape(
        anatomy.family,
        anatomy.layers,
        anatomy.d_model,
        folder if folder.is_dir() else None,
        anatomy.d_ff,
        model.fingerprint,
        anatomy.encoder_layers,
    )


def resolve(method: str, recipe: Recipe, overrides: Mapping[str, Any], shape: Shape | None) -> Resolved:
    """Return the method's settings for a model of that shape.

    Raises: InvalidSettings: an unknown name, or a value that the field cannot take, with the place it was read.
    """
    values: dict[str, Any] = {}
    provenance = {item.name: "default" for item in fields(recipe.type)}
    for source, layer_values in _layers_of(method, recipe, overrides, shape):
        for name, value in layer_values.items():
            where, origin = f"{method} ({source[name]})", source[name]
            if asks_for_tracing(value):
                value, origin = _traced(name, value, shape, origin, where)
            values[name] = parse(recipe.type, name, value, where=where)
            provenance[name] = origin
    try:
        return Resolved(recipe.type(**values), provenance)
    except InvalidSettings as error:
        raise InvalidSettings(f"{method}: {error}") from error


def _traced(name: str, value: str, shape: Shape | None, origin: str, where: str) -> tuple[Any, str]:
    """What a trace says of the setting; a path in the model's folder starts there."""
    if shape is None or shape.fingerprint is None:
        raise InvalidSettings(f"{where}: {name} = {value!r} needs a model to be known.")
    inside = shape.directory is not None and origin.startswith("model directory")
    folder = shape.directory if inside and shape.directory is not None else Path()
    return traced(name, value, folder=folder, fingerprint=shape.fingerprint(), where=where)


def configured(
    name: str, implementation: type[EditMethod], overrides: Mapping[str, Any], model: LanguageModel | None
) -> EditMethod:
    """Return an instance of the method with its settings resolved for the model."""
    recipe = getattr(implementation, "recipe", None)
    build = cast("Callable[..., EditMethod]", implementation)
    if recipe is None:
        if overrides:
            raise InvalidSettings(f"the method {name!r} has no settings; got {', '.join(sorted(overrides))}.")
        return build()
    resolved = resolve(name, recipe, overrides, shape_of(model) if model is not None else None)
    return build(resolved.settings, provenance=resolved.provenance)


def parse(settings_type: type, name: str, value: Any, *, where: str) -> Any:
    """Return `value` as the type that the field declares; text such as "5e-4" becomes a number.

    Raises: InvalidSettings: no such field, or a value it cannot take; `where` tells the user the place.
    """
    hints = get_type_hints(settings_type)
    if name not in hints:
        raise InvalidSettings(
            f"{where}: unknown setting {name!r}; there are {', '.join(sorted(hints))}.{closest(name, hints)}"
        )
    try:
        return _as(hints[name], value)
    except (TypeError, ValueError) as error:
        wanted = getattr(hints[name], "__name__", str(hints[name]))
        raise InvalidSettings(f"{where}: the setting {name!r} is {wanted}, not {value!r}.") from error


def read_file(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the tables `[methods.<name>]` of the model's `editguard.toml`; empty without the file.

    Raises: InvalidSettings: the file is not TOML, or holds something else than tables under `methods`.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("methods", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidSettings(f"{path} cannot be read: {error}") from error
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidSettings(f"{path}: write settings as tables, for example [methods.rome].")
    return tables


def _layers_of(
    method: str, recipe: Recipe, overrides: Mapping[str, Any], shape: Shape | None
) -> list[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """The sources of values, weakest first, as (field -> provenance, field -> value)."""
    layers: list[tuple[Mapping[str, str], Mapping[str, Any]]] = []
    if shape is not None:
        derived = _derived(recipe, shape)
        layers.append(
            (
                {name: f"derived from depth: {rule}" for name, (_, rule) in derived.items()},
                {name: value for name, (value, _) in derived.items()},
            )
        )
        layers.extend(
            (dict.fromkeys(row.values, f"published: {row.source}"), row.values)
            for row in recipe.published
            if (row.family, row.layers, row.d_model) == (shape.family, shape.layers, shape.d_model)
            and row.d_ff in (None, shape.d_ff)
        )
        if shape.directory is not None:
            tables = read_file(shape.directory)
            if recipe.inner and recipe.inner in tables:
                table = tables[recipe.inner]
                layers.append((dict.fromkeys(table, f"model directory: {FILE_NAME}, {recipe.inner}"), table))
            table = tables.get(method, {})
            layers.append((dict.fromkeys(table, f"model directory: {FILE_NAME}"), table))
    layers.append((dict.fromkeys(overrides, "override"), overrides))
    return layers


def _derived(recipe: Recipe, shape: Shape) -> Mapping[str, tuple[Any, str]]:
    if shape.encoder_layers and recipe.derived_with_encoder is not None:
        return recipe.derived_with_encoder(shape.encoder_layers, shape.layers - shape.encoder_layers)
    return recipe.derived(shape.layers)


def _as(hint: Any, value: Any) -> Any:
    """Convert `value` to the annotated type, or raise TypeError or ValueError."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None or (isinstance(value, str) and value.lower() in {"none", "off"}):
            if type(None) in options:
                return None
            raise ValueError(value)
        [option] = [option for option in options if option is not type(None)]
        return _as(option, value)
    if origin is tuple:
        parts = get_args(hint)
        items = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
        if parts[-1] is Ellipsis:
            return tuple(_as(parts[0], item) for item in items)
        return tuple(_as(part, item) for part, item in zip(parts, items, strict=True))
    if str(origin) == "typing.Literal":
        if value not in get_args(hint):
            raise ValueError(value)
        return value
    if hint is bool:
        return _as_bool(value)
    if hint is int:
        return _as_int(value)
    if hint is float:
        return _as_float(value)
    if hint is str and isinstance(value, str):
        return value
    raise TypeError(value)


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise TypeError(value)


def _as_int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    if isinstance(value, str):
        return int(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return int(value)


def _as_float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number
