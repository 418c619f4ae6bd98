"""Locality: does everything else stay as the unedited model had it?

A locality probe needs no answer: what counts is agreement with the unedited model. The distracting neighbourhood
puts the edit's statement in front of an unrelated prompt, because specificity measured without it is too
optimistic: Hoelscher-Obermaier et al., "Detecting Edit Failures in Large Language Models" (ACL Findings 2023).
"""

from collections.abc import Iterable

from editguard.edits import EditCase, EditRequest, Probe

NEIGHBOURHOOD = "neighbourhood"
DISTRACTING = "distracting_neighbourhood"


def unchanged(prompts: Iterable[str], *, kind: str = NEIGHBOURHOOD) -> tuple[Probe, ...]:
    """Probes whose answer should stay the unedited model's own."""
    return tuple(Probe(property="locality", kind=kind, prompt=prompt) for prompt in prompts)


def other_relations(prompts: Iterable[str]) -> tuple[Probe, ...]:
    """Probes about the same subject, but another relation."""
    return unchanged(prompts, kind="other_relation")


def distracting(request: EditRequest, neighbour: Probe) -> Probe:
    """A neighbourhood probe with the edit's statement in front."""
    return Probe(
        property="locality",
        kind=DISTRACTING,
        prompt=f"{request.statement}. {neighbour.prompt}",
        answers=neighbour.answers,
    )


def probes(case: EditCase) -> tuple[Probe, ...]:
    """The locality probes that the case declares, and the distracting form of each neighbourhood probe."""
    declared = tuple(probe for probe in case.probes if probe.property == "locality")
    distracted = (distracting(case.request, probe) for probe in declared if probe.kind == NEIGHBOURHOOD)
    return (*declared, *distracted)
