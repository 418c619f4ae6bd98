"""Against texts about the world: the reference score of what is said, and the drift of what is known of a subject.

Source: Meng et al., "Locating and Editing Factual Associations in GPT" (NeurIPS 2022), section 3.3 and appendix:
consistency (RS) and essence drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from editguard.edits import EditCase, EditRequest, content_id
from editguard.errors import ConfigurationError
from editguard.measurements.answering import Answering
from editguard.measurements.fluency import CONTINUATION_TOKENS, Continuing
from editguard.measurements.perplexity import PROTOCOL as PERPLEXITY
from editguard.measurements.perplexity import UNIT, log_perplexity
from editguard.measurements.record import CaseValue, Measurement
from editguard.measurements.selection import standing_cases

PROTOCOL: Final = "tfidf_cosine"
ESSENCE_WORDS: Final = 100
"""So much of the text about a subject is read; the authors read as many tokens."""


def reference_score(texts: Sequence[str], references: Sequence[str], corpus: Sequence[str]) -> float | None:
    """Return the cosine, in [0, 1], of the tf-idf vectors of all texts joined and of all references joined.

    Args:
        corpus: what vocabulary and inverse document frequencies are taken from (scikit-learn's `TfidfVectorizer`).

    Returns: 0 where one side has no word of the corpus; None where the corpus has no words at all.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer()
    try:
        vectorizer.fit(corpus)
    except ValueError:  # scikit-learn's way to say that there are no words
        return None
    first, second = vectorizer.transform([" ".join(texts), " ".join(references)]).toarray()
    return float(min(1.0, first @ second))


def consistency(
    continued: Continuing,
    cases: Sequence[EditCase],
    references: Mapping[str, Sequence[str]],
) -> Measurement:
    """Measure the reference score of free continuations, a value per edit.

    Args:
        continued: continues prompts on the model with all of `cases` in force; what is continued are the generation
            prompts that a case of COUNTERFACT carries, or the edit's own prompt. The prompt is no part of the text.
        cases: the edits applied, in order; superseded ones are left out.
        references: per target, texts about *other* subjects of which the target is true. All of them together are
            the corpus. Edits towards other targets are left out, and counted.

    Raises: ConfigurationError: there is no reference for any edit, or the references have no words.
    """
    standing, gone = standing_cases(cases)
    known = [case for case in standing if references.get(case.request.target.strip())]
    if not known:
        raise ConfigurationError("there are no reference texts for the target of any edit in force.")
    corpus = [text for texts in references.values() for text in texts]
    prompts = {case.id: _prompts(case) for case in known}
    asked = list(dict.fromkeys(prompt for each in prompts.values() for prompt in each))
    said = dict(zip(asked, continued(asked, tokens=CONTINUATION_TOKENS), strict=True))
    values = []
    for case in known:
        texts, own = [said[prompt] for prompt in prompts[case.id]], references[case.request.target.strip()]
        score = reference_score(texts, own, corpus)
        if score is None:
            raise ConfigurationError("the reference texts have no words.")
        values.append(_value("reference score", case.request, "continuation", " ".join(texts), score, [*own]))
    return Measurement(
        name="reference score",
        protocol=PROTOCOL,
        values=tuple(values),
        edit_ids=tuple(case.id for case in cases),
        excluded_probes=tuple(content_id("reference score", case.id, []) for case in standing if case not in known),
        superseded_edits=gone,
        unit="cosine",
    )


def essence_drift(
    edited: Answering,
    original: Answering,
    cases: Sequence[EditCase],
    texts: Mapping[str, Sequence[str]],
) -> Measurement:
    """Measure by how much the log-perplexity of texts about each edit's subject rises, in nats per token.

    The authors print the perplexity itself, after the edit, over one token more than is predicted.

    Args:
        texts: per subject; joined, and read up to `ESSENCE_WORDS`. Edits of other subjects are left out, and counted.
        edited, original, cases: as for `perplexity`.

    Raises: ConfigurationError: no subject of an edit in force has a text of two words.
    """
    standing, gone = standing_cases(cases)
    words = {case.id: " ".join(texts.get(case.request.subject, ())).split() for case in standing}
    about = {name: " ".join(each[:ESSENCE_WORDS]) for name, each in words.items()}
    known = [case for case in standing if " " in about[case.id]]
    if not known:
        raise ConfigurationError("there is no text about the subject of any edit in force.")
    before, after = (log_perplexity(state, [about[case.id] for case in known]) for state in (original, edited))
    return Measurement(
        name="essence drift",
        protocol=PERPLEXITY,
        values=tuple(
            _value("essence drift", case.request, "text", "", None if old is None or new is None else new - old, [])
            for case, old, new in zip(known, before, after, strict=True)
        ),
        edit_ids=tuple(case.id for case in cases),
        excluded_probes=tuple(content_id("essence drift", case.id, []) for case in standing if case not in known),
        superseded_edits=gone,
        unit=UNIT,
        lower_is_better=True,
    )


def _prompts(case: EditCase) -> list[str]:
    """Generation prompts of the record, each once; the edit's own prompt where there are none."""
    fields = case.origin.get("fields")
    found = fields.get("generation_prompts") if isinstance(fields, Mapping) else None
    texts = [text for text in found if isinstance(text, str) and text.strip()] if isinstance(found, list) else []
    return list(dict.fromkeys(texts)) or [case.request.text]


def _value(
    name: str, request: EditRequest, kind: str, said: str, value: float | None, references: list[str]
) -> CaseValue:
    return CaseValue(
        probe=content_id(name, request.id, references),
        edit=request.id,
        kind=kind,
        prompt=request.text,
        expected=(),
        answer=said,
        outcome="invalid" if value is None else "other",
        value=value,
    )
