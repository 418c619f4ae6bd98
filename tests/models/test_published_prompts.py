"""Prompts as they are published: the subject's last token is found, and answers follow prompts, for every tokenizer."""

import pytest
import zoo
from samples import sample

from editguard.edits import EditRequest

WRITTEN = [
    {
        "prompt": "{}, which is located in",
        "subject": "Autonomous University of Northmere",
        "target_new": {"str": "Sunde"},
    },
    {"prompt": "The mother tongue of {} is", "subject": "Dané Darriux-O'Neil", "target_new": {"str": "Englic"}},
    {"prompt": "{} is a product of", "subject": "BMX R80 G/S (1980)", "target_new": {"str": "Foord Motor"}},
]


def check(rewrite: dict, family: str) -> None:
    request = EditRequest(prompt=rewrite["prompt"], subject=rewrite["subject"], target=rewrite["target_new"]["str"])
    model = zoo.tiny(family)
    start = request.prompt.index("{}")
    end = model.subject_end(request.text, request.subject, start=start)
    text = model.decode(model.encode(request.text)[: end + 1])
    assert text.rstrip().endswith(request.subject[-1]) or request.subject[-1] in text[-4:]
    assert request.text[: start + len(request.subject)].strip().endswith(request.subject)
    before, after = model.encode_answer(request.text, request.target)
    assert before == model.encode(request.text)
    assert model.decode([*before, *after]).endswith(request.target)


@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
@pytest.mark.parametrize("rewrite", WRITTEN, ids=lambda rewrite: rewrite["subject"])
def test_the_subject_ends_and_the_answer_begins_where_they_should(rewrite: dict, family: str) -> None:
    check(rewrite, family)


@pytest.mark.samples
@pytest.mark.parametrize("family", zoo.REPRESENTATIVE)
def test_the_same_holds_for_published_records(family: str) -> None:
    for record in sample("counterfact_sample.json"):
        check(record["requested_rewrite"], family)
