"""`editguard trace`, from its arguments to its files."""

import json
import re
from base64 import b64encode
from html import unescape
from pathlib import Path

import pytest

from editguard.cli import main
from editguard.datasets.jsonl import write_cases
from editguard.edits import EditCase, EditRequest
from editguard.methods import create
from editguard.models import load_model
from editguard.probes.pocket import pocket_cases

QUICK = ("--draws", "1", "--restore", "block,mlp")


def test_a_trace_of_the_pocket_model_is_a_table_a_picture_and_plain_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png, data, page = tmp_path / "new" / "trace.png", tmp_path / "trace.json", tmp_path / "trace.html"
    files = ("--png", str(png), "--json", str(data), "--html", str(page))
    assert main(["trace", "--facts", "3", *QUICK, *files]) == 0
    text = capsys.readouterr().out
    found = json.loads(data.read_text())
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "last subject token" in text
    assert f"{len(found['facts'])} of 3 facts traced" in text
    assert set(found["average_effects"]) == {"block", "mlp"}
    for kind, effects in found["average_effects"].items():
        for role, values in effects.items():
            [line] = [line for line in text.split(f"{kind}", 1)[1].splitlines() if line.startswith(role)][:1]
            assert line.split()[-len(values) :] == [f"{value:.3f}" for value in values]
    assert f"last subject token over {found['suggestion']['facts']} facts: {found['suggestion']['layer']} " in text
    assert f"wrote {png}" in text
    html = page.read_text()
    assert f"wrote {page}" in text
    assert b64encode(png.read_bytes()).decode() in html
    assert re.findall('(?:src|href)="(?!data:)', html) == []  # nothing to be fetched
    suggested = next(line for line in text.splitlines() if line.startswith("layer to edit"))
    assert suggested in unescape(html)


def test_a_method_takes_its_layers_from_a_trace_of_the_same_model_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "trace.json"
    assert main(["trace", "--facts", "3", *QUICK, "--json", str(data)]) == 0
    capsys.readouterr()
    found = json.loads(data.read_text())["suggestion"]
    model = load_model("pocket")
    with pytest.warns(RuntimeWarning, match="doubts it"):
        one, more = (
            create(name, {field: f"traced:{data}"}, model) for name, field in (("rome", "layer"), ("memit", "layers"))
        )
    assert one.settings.layer == found["layer"]
    assert more.settings.layers == tuple(found["layers"])
    assert one.provenance["layer"].startswith("derived by tracing: ")
    assert "3 facts" in more.provenance["layers"]


def test_facts_come_from_a_file_and_their_answer_is_the_previous_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model("pocket")
    requests = [case.request for case in pocket_cases(6)]
    scores = model.score([(request.text, str(request.previous)) for request in requests])
    known = next(request for request, score in zip(requests, scores, strict=True) if score.exact)
    wrong = EditRequest(prompt=known.prompt, subject=known.subject, target=known.target)
    file = tmp_path / "facts.jsonl"
    write_cases(file, [EditCase(request=known), EditCase(request=wrong)])
    png = tmp_path / "one.png"
    assert main(["trace", "--facts", str(file), *QUICK, "--png", str(png)]) == 0
    text = capsys.readouterr().out
    assert "1 of 2 facts traced, 1 left out" in text
    assert "too few" in text
    assert png.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "pocke"], "pocke"),
        (["--facts", "0"], "from 1 on"),
        (["--facts", "no_such_file.jsonl"], "no_such_file.jsonl"),
        (["--facts", "{tmp}/empty.jsonl"], "holds no edit case"),
        (["--facts", "{tmp}/wrong.jsonl"], "record 1"),
        (["--facts", "{tmp}/unknown.jsonl"], "knows none of the 1 facts"),
        (["--png", "{tmp}"], "is a directory"),
        (["--json", "{tmp}/empty.jsonl/x.json"], "cannot write"),
        (["--draws", "0"], "draws is at least 1"),
        (["--restore", "heads"], "kinds are some of"),
        (["--device", "abacus"], "abacus"),
        (["--batch-size", "0"], "batch size"),
    ],
)
def test_a_mistake_is_one_line_and_status_two(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "wrong.jsonl").write_text('{"prompt": "x"}\n')
    write_cases(
        tmp_path / "unknown.jsonl",
        [EditCase(request=EditRequest(prompt="The moon of {} is", subject="Velloria", target="cheese"))],
    )
    assert main(["trace", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("editguard: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
