"""From an edit case to the probes of one property."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from editguard.edits import EditCase, Probe, Property
from editguard.errors import ConfigurationError, closest
from editguard.probes import generalization, locality, other_tasks, portability, reliability

_PROBES: Mapping[Property, Callable[[EditCase], tuple[Probe, ...]]] = MappingProxyType(
    {
        "reliability": reliability.probes,
        "generalization": generalization.probes,
        "portability": portability.probes,
        "locality": locality.probes,
        "other_tasks": other_tasks.probes,
    }
)


def probes_of(case: EditCase, property: Property, kind: str | None = None) -> tuple[Probe, ...]:
    """Return the probes that a case has for a property, each once, in the order of their declaration.

    Args:
        case: the request and the probes declared with it.
        property: reliability always has the request's own prompt, locality the distracting form of each declared
            neighbourhood prompt; the others have what the case declares.
        kind: keep the probes of this kind alone; None keeps all.

    Raises: ConfigurationError: there is no such property.
    """
    if property not in _PROBES:
        known = ", ".join(_PROBES)
        raise ConfigurationError(f"unknown property {property!r}; there are {known}.{closest(property, _PROBES)}")
    unique = {probe.id: probe for probe in _PROBES[property](case)}
    return tuple(probe for probe in unique.values() if kind is None or probe.kind == kind)
