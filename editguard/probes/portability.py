"""Portability: do the consequences of an edit follow?

The kinds are those of Yao et al., "Editing Large Language Models: Problems, Methods, and Opportunities" (EMNLP
2023), section 4.2: the subject replaced by another name of it, the reversed relation, and one hop on from the new
fact. A consequence can only follow from something that the model knew before: `knows` holds these questions, and
the probe is left out, and counted, where the unedited model fails one of them.
"""

from collections.abc import Iterable

from editguard.edits import SLOT, EditCase, EditRequest, Probe

Known = tuple[tuple[str, str], ...]
"""(prompt, answer) pairs that the unedited model must know."""


def subject_replace(
    request: EditRequest, other_name: str, *, prompts: Iterable[str] = (), knows: Known = ()
) -> tuple[Probe, ...]:
    """The request asked about another name of its subject.

    Args:
        request: the edit; its prompt is asked with `other_name` in the slot.
        other_name: an alias or a description of the subject.
        prompts: further prompts with a `{}` for the name.
        knows: what shows that the model knows the name to be the subject's.
    """
    return tuple(
        Probe(
            property="portability",
            kind="subject_replace",
            prompt=prompt.replace(SLOT, other_name, 1),
            answers=(request.target.strip(),),
            knows=knows,
        )
        for prompt in (request.prompt, *prompts)
    )


def reversed_relation(request: EditRequest, prompt: str, *, knows: Known = ()) -> Probe:
    """A question about the target whose answer, after the edit, is the subject."""
    return Probe(
        property="portability",
        kind="reversed_relation",
        prompt=prompt,
        answers=(request.subject.strip(),),
        knows=knows,
    )


def one_hop(prompt: str, answers: Iterable[str], *, knows: Known = (), kind: str = "one_hop") -> Probe:
    """A question that needs the new fact and one known fact about the target.

    Args:
        prompt: the composed question.
        answers: accepted answers in the world after the edit.
        knows: the second fact as (prompt, answer), so that a failure is not lack of that fact.
        kind: a finer name, for other numbers of hops or other forms of the question.
    """
    return Probe(property="portability", kind=kind, prompt=prompt, answers=tuple(answers), knows=knows)


def probes(case: EditCase) -> tuple[Probe, ...]:
    """The portability probes that the case declares."""
    return tuple(probe for probe in case.probes if probe.property == "portability")
