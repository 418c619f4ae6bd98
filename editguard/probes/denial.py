"""Yes-or-no questions and negated prompts about the edited fact: does the model hold the new fact, or only say it?

None of the published data sets has them. A model that repeats the target wherever the subject is named answers every
rephrase, says "yes" to both questions, and ends a negated prompt with the target too.
"""

from __future__ import annotations

from editguard.edits import SLOT, EditRequest, Probe
from editguard.errors import InvalidEdit

AFFIRMED = "yes_no_new"
DENIED = "yes_no_old"
NEGATED = "negation"


def yes_no(
    request: EditRequest, question: str, *, yes: str = "yes", no: str = "no", known: bool = True
) -> tuple[Probe, Probe]:
    """Is the target the answer (yes), and is the previous answer still one (no)?

    Args:
        request: an edit with a previous answer.
        question: with a `{}` where the claimed answer stands, such as "Is {} the capital of Velloria? Answer:".
        yes, no: the two options; the likelier one is the answer.
        known: whether the pair counts only where the unedited model affirms the previous answer by real decoding; a
            model that cannot answer such questions shows nothing by them.

    Raises: InvalidEdit: the request has no previous answer, or the question no slot or several.
    """
    previous = _previous(request)
    if question.count(SLOT) != 1:
        raise InvalidEdit(
            f"the question {question!r} has {question.count(SLOT)} slots {{}}: "
            "write one where the claimed answer stands."
        )
    before, after = question.split(SLOT)
    knows = ((f"{before}{previous}{after}", yes),) if known else ()

    def asked(kind: str, claim: str, answer: str) -> Probe:
        return Probe(
            property="portability",
            kind=kind,
            prompt=f"{before}{claim}{after}",
            answers=(answer,),
            choices=(yes, no),
            knows=knows,
        )

    return asked(AFFIRMED, request.target.strip(), yes), asked(DENIED, previous, no)


def negation(request: EditRequest, prompt: str) -> Probe:
    """A prompt that says what is not so, such as "The capital of Velloria is not".

    The previous answer fits now, and the target does not; the likelier of the two is the answer.

    Raises: InvalidEdit: the request has no previous answer.
    """
    previous = _previous(request)
    return Probe(
        property="portability",
        kind=NEGATED,
        prompt=prompt,
        answers=(previous,),
        choices=(previous, request.target.strip()),
    )


def _previous(request: EditRequest) -> str:
    previous = (request.previous or "").strip()
    if not previous:
        raise InvalidEdit(
            f"the request {request.statement!r} has no previous answer, which a yes-or-no question and a negated "
            "prompt need: give EditRequest(previous=...)."
        )
    return previous
