"""The criteria of RippleEdits: what follows from an edit follows, and what does not stays.

Source: Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models" (TACL 2024), sections 3
and 5. The score of an edit and criterion is passed / executed tests; the mean is over edits that took. What a test
builds on is asked of the unedited model first; a test whose condition fails is not executed. Methods are thus compared
on different tests, so that the executed share ("executed") belongs beside every accuracy ("passed").

Differences from the authors' program, on purpose: the text that is searched is the answer alone (theirs holds the
prompt, so that an answer named in the question always passes), up to the end of its sentence or line (theirs takes the
prompt's length in characters for a limit in tokens); names are matched as whole words, so that one-letter answers can
stay; an edit is in force once for all its criteria.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final, Literal

from editguard.datasets.ripple_edits import Query, RippleTest, is_recent, ripple_tests
from editguard.edits import EditCase, content_id, superseded
from editguard.errors import ConfigurationError
from editguard.measurements.answering import ANSWER_TOKENS, Answering
from editguard.measurements.decoding import decode
from editguard.measurements.matching import names_each
from editguard.measurements.record import CaseValue, Measurement

Ripples = Literal["passed", "executed"]
NAMES: Final[dict[Ripples, str]] = {"passed": "ripple effects", "executed": "ripple tests executed"}
PROTOCOL: Final = "decode_contains"
MOST_TOKENS: Final = 96
"""Limit of an answer that has to name several things."""


def ripples(
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase],
    *,
    of: Ripples = "passed",
    filtered: bool = True,
) -> Measurement:
    """Measure the tests of RippleEdits; one value per edit and criterion, whose name is its kind.

    Args:
        edited: the model with all of `cases` in force.
        original: the unedited model.
        cases: imported by the form "ripple-edits"; superseded ones are left out, and counted.
        of: "passed" is passed / executed, over edits that took and criteria with an executed test; "executed" is
            executed / all tests, where an edit that did not take has no executed test.
        filtered: whether edits are left out whose fact the unedited model knows though it is recent, or does not
            know though the edit replaces it (where the record tells which of the two, and the previous answer).

    Raises: ConfigurationError: no case carries tests of RippleEdits.
    """
    if of not in NAMES:
        raise ConfigurationError(f"of RippleEdits' tests {' or '.join(map(repr, NAMES))} is measured, not {of!r}.")
    gone = superseded([case.request for case in cases])
    standing = {case.id: case for place, case in enumerate(cases) if place not in gone}
    tests = {name: _by_kind(case) for name, case in standing.items()}
    if not any(tests.values()):
        raise ConfigurationError(
            "no edit in force carries tests of RippleEdits: import some by `editguard import --form ripple-edits`."
        )
    edits = {name: Query(case.request.text, ((case.request.target.strip(),),)) for name, case in standing.items()}
    usable = _prior(original, standing, edits) if filtered else set(standing)
    took = _answered(edited, edits.values())
    took_names = {name for name in usable if took[edits[name]][0]}
    met = _answered(
        original,
        [query for kinds in tests.values() for each in kinds.values() for test in each for query in test.conditions],
    )
    answers = _answered(
        edited,
        [
            query
            for name in standing
            if name in took_names
            for each in tests[name].values()
            for test in each
            if _executed(test, met)
            for query in test.queries
        ],
    )
    values, excluded = [], []
    for name, kinds in tests.items():
        for kind, each in kinds.items():
            id = content_id(NAMES[of], name, kind, [[query.prompt for query in test.queries] for test in each])
            executed = [test for test in each if name in took_names and _executed(test, met)]
            if name not in usable or (of == "passed" and not executed):
                excluded.append(id)
                continue
            passed = [_passes(test, answers) for test in executed]
            shown = executed[passed.index(False)].queries[0] if False in passed else (executed or each)[0].queries[0]
            value = sum(passed) / len(executed) if of == "passed" else len(executed) / len(each)
            values.append(
                CaseValue(
                    probe=id,
                    edit=name,
                    kind=kind,
                    prompt=shown.prompt,
                    expected=tuple(names[0] for names in shown.answers),
                    answer=answers[shown][1] if shown in answers else "",
                    outcome="contains" if value == 1.0 else "other",
                    value=value,
                )
            )
    return Measurement(
        name=NAMES[of],
        protocol=PROTOCOL,
        values=tuple(values),
        edit_ids=tuple(case.id for case in cases),
        excluded_probes=tuple(excluded),
        superseded_edits=tuple(cases[place].id for place in sorted(gone)),
    )


def _by_kind(case: EditCase) -> dict[str, list[RippleTest]]:
    """The tests of each criterion that can be passed at all: theirs has some whose answers have no name."""
    kinds: defaultdict[str, list[RippleTest]] = defaultdict(list)
    for test in ripple_tests(case):
        possible = [bool(query.answers) and bool(query.prompt.strip()) for query in test.queries]
        if possible and (all(possible) if test.needs_all else any(possible)):
            kinds[test.kind].append(test)
    return dict(kinds)


def _prior(original: Answering, cases: dict[str, EditCase], edits: dict[str, Query]) -> set[str]:
    """The edits whose fact the unedited model does not know yet, or, of a replacement, whose old fact it knows."""
    asked = {}
    for name, case in cases.items():
        recent, previous = is_recent(case), (case.request.previous or "").strip()
        if recent:
            asked[name] = edits[name]
        elif recent is False and previous:
            asked[name] = Query(case.request.text, ((previous,),))
    found = _answered(original, asked.values())
    return {name for name in cases if name not in asked or found[asked[name]][0] != bool(is_recent(cases[name]))}


def _executed(test: RippleTest, met: dict[Query, tuple[bool, str]]) -> bool:
    return all(met[query][0] for query in test.conditions)


def _passes(test: RippleTest, answers: dict[Query, tuple[bool, str]]) -> bool:
    return (all if test.needs_all else any)(answers[query][0] for query in test.queries)


def _answered(model: Answering, queries: Collection[Query]) -> dict[Query, tuple[bool, str]]:
    """For each query whether its answer names all that is required, and the answer."""
    unique = [query for query in dict.fromkeys(queries) if query.prompt.strip()]
    limits = [min(MOST_TOKENS, ANSWER_TOKENS * max(1, len(query.answers))) for query in unique]
    found = decode(model, [query.prompt for query in unique], limits=limits)
    told = {
        query: (names_each(answer.text, query.answers), answer.text)
        for query, answer in zip(unique, found, strict=True)
    }
    return {query: told.get(query, (False, "")) for query in queries}
