"""Generalization: is the target given when the request is put in other words?"""

from collections.abc import Iterable

from editguard.edits import EditCase, EditRequest, Probe


def rephrases(request: EditRequest, prompts: Iterable[str], *, kind: str = "rephrase") -> tuple[Probe, ...]:
    """Probes that ask for the request's target in the words of `prompts` (the subject filled in)."""
    return tuple(
        Probe(property="generalization", kind=kind, prompt=prompt, answers=(request.target.strip(),))
        for prompt in prompts
    )


def probes(case: EditCase) -> tuple[Probe, ...]:
    """The generalization probes that the case declares."""
    return tuple(probe for probe in case.probes if probe.property == "generalization")
