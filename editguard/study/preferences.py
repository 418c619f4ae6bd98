"""What somebody wants of a method: weights of criteria, and limits that must hold; read from a command line's words."""

from __future__ import annotations

from math import inf, isfinite

from editguard.comparison.bounds import Bound, read_bound
from editguard.errors import ConfigurationError, closest
from editguard.study.criteria import COSTS, Group, Value


def known_criterion(group: Group, name: str, option: str) -> str:
    """A criterion's name as such.

    Raises: ConfigurationError: the group has no value of it for any method; names a near one, or what is missing.
    """
    known = group.criteria()
    if name in known:
        return name
    if name in COSTS:
        cause = (
            "there is no costs.json beside summary.json"
            if COSTS[name].in_costs and group.results.costs is None
            else f"no method of {group.title} has a value of it"
        )
        raise ConfigurationError(f"{option}: {name!r} ({COSTS[name].title}) cannot be used: {cause}.")
    plain = [each for each in known if "/" not in each]
    guess = closest(name, known)
    if whole := [each for each in known if each.partition("/")[2] == name]:
        guess = f" Did you mean {whole[0]!r}?"
    raise ConfigurationError(
        f"{option}: unknown criterion {name!r} for {group.title}; known are {', '.join(plain)}, and kinds such as "
        f"{next((each for each in known if '/' in each), 'portability/one_hop')}.{guess}"
    )


def read_weights(text: str, group: Group) -> dict[str, float]:
    """From "reliability=3,time=0.5" to weights, in the order of `Group.criteria`; those of 0 are left out.

    Raises: ConfigurationError: the form is another, a weight is negative or no number, all are 0, a name is unknown or
        stands there twice.
    """
    given: dict[str, float] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        name, equals, amount = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(amount)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ConfigurationError(
                f"--weights takes CRITERION=NUMBER, for example reliability=3,time=0.5, not {part!r}."
            )
        if not 0 <= weight < inf:
            raise ConfigurationError(f"--weights: a weight is a number from 0 on, but {name} has {amount}.")
        if name in given:
            raise ConfigurationError(f"--weights: {name} has two weights.")
        given[known_criterion(group, name, "--weights")] = weight
    weights = {name: given[name] for name in group.criteria() if given.get(name)}
    if not weights or not isfinite(sum(weights.values())):
        raise ConfigurationError("--weights: give at least one criterion a weight above 0, and none too large to add.")
    return weights


class Limit(Bound):
    """What a method's value must hold."""

    def doubtful(self, value: Value) -> bool:
        """Whether the interval of a value reaches over the bound, so that other cases might decide otherwise."""
        ends = [end for end in (value.low, value.high) if end is not None]
        return any(self.holds(end) != self.holds(value.value) for end in ends)


def read_limit(text: str, group: Group) -> Limit:
    """From "locality>=0.9" to a limit.

    Raises: ConfigurationError: the form is another, or the criterion is unknown.
    """
    bound = read_bound(text)
    if bound is None:
        raise ConfigurationError(f'--require takes a limit such as "locality>=0.9" or "time<2", not {text!r}.')
    return Limit(known_criterion(group, bound.criterion, "--require"), bound.relation, bound.bound)
