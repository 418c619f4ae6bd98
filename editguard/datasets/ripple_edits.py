"""RippleEdits: edits with tests of what follows, each under conditions that the unedited model must meet.

Source: Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models" (TACL 2024).

A record's edit is one sentence ("The name of the mother of X is Y."): subject and target are cut out of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from editguard.datasets.answers import accepted, question
from editguard.datasets.fields import Fields, shown
from editguard.datasets.form import Form, Record, request
from editguard.edits import SLOT, EditCase, EditRequest, Probe, Property
from editguard.errors import InvalidEdit, UnusableRecord

CRITERIA: Final[Mapping[str, tuple[Property, str]]] = {
    "Subject_Aliasing": ("portability", "subject_replace"),
    "Compositionality_I": ("portability", "compositionality_1"),
    "Compositionality_II": ("portability", "compositionality_2"),
    "Logical_Generalization": ("portability", "logical_generalization"),
    "Relation_Specificity": ("locality", "other_relation"),
    "Relation_Specifity": ("locality", "other_relation"),
    "Forgetfulness": ("locality", "forgetfulness"),
}
"""The specificity key is spelt in two ways."""
_WHICH: Final = "is associated with|is a member of|is part of|plays in|is the capital of"
_COMPOUND: Final = (
    "country of citizenship|place of (?:birth|death|burial)|date of (?:birth|death)|field of work|"
    "head of (?:government|state)"
)
_BEGINNINGS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"The name of the .+? which (?P<subject>.+) (?:{_WHICH}) is",
        r"The name of the award (?P<subject>.+) won is",
        r"The number of children (?P<subject>.+) has is",
        r"The (?:names? of the |(?!names? of the ))"
        rf"(?:{_COMPOUND}|[a-z]+(?: [a-z]+)?) (?:of|in|held by) (?P<subject>.+) (?:is|are)",
        r"(?!The names? of the )(?P<subject>.+) (?:follows|is followed by)",
    )
)
"""How the sentences begin, up to the target."""
_SPLITS: Final = re.compile(r" (?:is|are|follows|is followed by)(?= )")


def translate(fields: Fields) -> Record:
    """Translate one record."""
    edit = _request(fields)
    probes: list[Probe] = []
    for criterion, (property, kind) in CRITERIA.items():
        if criterion not in fields:
            continue
        for test in fields.objects(criterion):
            probes += [probe for probe in _probes(test, property, kind) if probe is not None]
        fields.keep(criterion)  # which queries make up a test, all required answers, conditions with all names
    fields.keep("edit")  # ids of subject and targets
    return Record(cases=(EditCase(request=edit, probes=tuple(probes)),), stratum=edit.relation or "")


@dataclass(frozen=True)
class Query:
    """A question, and its required answers: each of them by one of its names."""

    prompt: str
    answers: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RippleTest:
    """One test of a record.

    Attributes:
        kind: of its criterion, as probes have it.
        queries: what the edited model is asked.
        needs_all: whether every query has to be answered ("AND"), or one ("OR").
        conditions: what the unedited model has to answer before the test counts.
    """

    kind: str
    queries: tuple[Query, ...]
    needs_all: bool
    conditions: tuple[Query, ...]


def ripple_tests(case: EditCase) -> tuple[RippleTest, ...]:
    """The tests of an imported case, as they stand in its origin; none where it carries no record.

    Raises: InvalidEdit: what it carries is no list of tests.
    """
    fields = Fields(case.origin.get("fields", {}), "the kept record of a case", path="origin.fields.")
    return tuple(
        RippleTest(
            kind,
            _queries(test, "test_queries"),
            (test.optional_text("test_condition") or "OR") == "AND",
            _queries(test, "condition_queries"),
        )
        for criterion, (_, kind) in CRITERIA.items()
        if criterion in fields
        for test in fields.objects(criterion)
    )


def is_recent(case: EditCase) -> bool | None:
    """Whether a case's fact is newer than models, or replaces one that they know; None where its origin is silent."""
    kind = case.origin.get("fields", {}).get("example_type")
    return kind in ("recent", "recently_added_fact") if isinstance(kind, str) else None


def _queries(test: Fields, name: str) -> tuple[Query, ...]:
    return tuple(Query(query.text("prompt"), _groups(query)) for query in test.objects(name))


def _request(fields: Fields) -> EditRequest:
    edit = fields.object("edit")
    sentence, relation = edit.text("prompt").strip(), edit.text("relation")
    stated = sentence.removesuffix(".")
    labels = _labels(fields, edit.optional_text("target_id"))
    beginning, target = _cut(stated, labels)
    subject = _subject(beginning)
    if not subject:
        raise UnusableRecord("unknown_target", f"the sentence {shown(sentence)} does not show its subject.")
    old = next((edit.optional_object(name) for name in ("original_fact", "previous_fact") if name in edit), None)
    before = None
    if old is not None:
        said = old.text("prompt").strip().removesuffix(".")
        before = said.removeprefix(beginning).strip() if said.startswith(beginning) else None
    place = beginning.rindex(subject)
    prompt = f"{beginning[:place]}{SLOT}{beginning[place + len(subject) :]}"
    return request(prompt=prompt, subject=subject, target=target, previous=before, relation=relation)


def _cut(stated: str, labels: Iterable[str]) -> tuple[str, str]:
    """Beginning and target of a sentence; names of the target from the tests decide before the sentence's form does.

    Raises: UnusableRecord: neither decides.
    """
    for label in sorted(labels, key=len, reverse=True):
        beginning = stated.removesuffix(label).rstrip()
        if stated.endswith(f" {label}") and _subject(beginning):
            return beginning, label
    cuts = [(stated[: found.end()], stated[found.end() :].strip()) for found in _SPLITS.finditer(stated)]
    cuts = [(beginning, target) for beginning, target in cuts if _subject(beginning) and target]
    if len(cuts) != 1:
        raise UnusableRecord(
            "unknown_target",
            f"the sentence {shown(stated)} does not tell where its target begins, and no test names the target.",
        )
    return cuts[0]


def _subject(beginning: str) -> str:
    """The subject of a sentence's beginning; empty where it is none of the known beginnings."""
    for pattern in _BEGINNINGS:
        if found := pattern.fullmatch(beginning):
            return found["subject"]
    return ""


def _labels(fields: Fields, target_id: str | None) -> Iterator[str]:
    """Names of the edit's target, from the test queries that ask for it alone."""
    for criterion in CRITERIA:
        for test in fields.objects(criterion) if target_id and criterion in fields else ():
            for query in test.objects("test_queries", required=True):
                if query.items("target_ids") == [target_id]:
                    yield from (name for group in _groups(query) for name in group)


def _groups(query: Fields) -> tuple[tuple[str, ...], ...]:
    answers = query.objects("answers", required=True)
    groups = ((answer.text("value"), *answer.texts("aliases")) for answer in answers)
    named = (tuple(dict.fromkeys(name for name in group if name.strip())) for group in groups)
    return tuple(dict.fromkeys(group for group in named if group))


def _probes(test: Fields, property: Property, kind: str) -> Iterator[Probe | None]:
    """The queries of a test as probes; None for each that cannot be asked.

    Conditions become what the unedited model must know; locality needs none, because it compares with that model.
    """
    queries = test.objects("test_queries", required=True)
    condition = test.optional_text("test_condition") or "OR"
    if condition not in ("OR", "AND"):
        raise InvalidEdit(f"a test_condition is 'OR' or 'AND', not {condition!r}.")
    if condition == "OR" and len(queries) > 1:
        test.note("alternatives", f"{kind}: {queries[0].text('prompt')!r}")
    knows: list[tuple[str, str]] = []
    if property == "portability":
        for query in test.objects("condition_queries"):
            answers = accepted(query.text("prompt"), _groups(query))
            if not answers:
                test.note("several_known_answers", f"{kind}: {query.text('prompt')!r}")
                yield None
                return
            knows.append((query.text("prompt"), answers[0]))
    for query in queries:
        yield question(query, property, kind, query.text("prompt"), _groups(query), knows=knows)


_QUERY: Final = {"prompt": "The language of Velloria is", "answers": [{"value": "Vellorian", "aliases": []}]}
FORM: Final = Form(
    name="ripple-edits",
    title="RippleEdits",
    keys=("example_type", "edit"),
    example={
        "example_type": "popular",
        "edit": {
            "prompt": "The name of the capital city of Velloria is Oskar.",
            "subject_id": "Q1",
            "relation": "CAPITAL",
            "target_id": "Q2",
        },
        "Relation_Specificity": [{"test_queries": [_QUERY], "test_condition": "OR", "condition_queries": [_QUERY]}],
    },
    translate=translate,
    warning="the subject and the target are cut out of a sentence: look over a sample of the written prompts.",
)
