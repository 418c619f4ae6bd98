"""`editguard rank`, from its arguments to its files."""

import json
import shlex
from pathlib import Path

import pytest
from study.results_files import cost, row, survey, write

from editguard.cli import main

STUDIES = Path(__file__).parents[1] / "docs" / "studies"


@pytest.fixture
def folder(tmp_path):
    rows = [
        row("rome", survey(0.9, 0.4)),
        row("ike", survey(0.8, 0.9)),
        row("slow", survey(0.7, 0.3)),
        row("unedited", survey(0.0, 1.0), size=20),
        row("rome", survey(0.1, 0.1), mode="batch", size=10),
        row("rome", survey(0.1, 0.1), mode="batch", size=20),
    ]
    return write(tmp_path / "study", rows, [cost("rome", 0.5), cost("ike", 0.01), cost("slow", 8.0)])


def test_the_terminal_says_who_is_first_why_and_how_surely(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["rank", str(folder), "--weights", "reliability=1,locality=1", "--require", "time<5"]) == 0
    said = capsys.readouterr().out
    assert "study of tiny, single edits: 2 of 3 methods ranked" in said
    assert "slow: time is 8, and time<5 is required" in said
    assert "First: ike" in said
    # reliability beyond which rome wins: 0.1 t = 0.5 (1 - t), t = 5 / 6
    assert "(exact)" in said
    assert "ike               83.333%" in said
    assert "rome              16.667%" in said
    assert "rome is level once 33.3% of the weight moves (reliability 50.0% -> 83.3%, locality 50.0% -> 16.7%)" in said
    assert "Not dominated in the 2 weighted criteria: ike, rome" in said
    assert "Not dominated in quality against time, limits aside: ike" in said
    assert "0.900 [0.90, 0.90]" in said
    assert "+0.450" in said


def test_files_hold_everything_and_are_the_same_again(folder, tmp_path, capsys):
    def made(name, *more):
        assert (
            main(["rank", str(folder), "--weights", "reliability=2,locality=1,time=.1", "--out", str(tmp_path / name)])
            == 0
        )
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    first = made("one")
    assert set(first) == {"ranking.json", "trade-off.png", "trade-off.svg"}
    assert first == made("two")
    record = json.loads(first["ranking.json"])
    assert record["winners"] == ["ike"]
    assert record["trade_off"]["front"] == ["ike"]
    assert sum(each["share_of_weights"] for each in record["methods"]) == pytest.approx(1.0)
    assert record["methods"][0]["criteria"]["time"]["utility"] == pytest.approx(2.0)
    assert sum(each["contribution"] for each in record["methods"][0]["criteria"].values()) == pytest.approx(
        record["methods"][0]["score"]
    )
    assert record["shares"] == {"exact": False, "draws": 100_000, "seed": 0}


def test_where_no_method_holds_the_limits_the_status_is_one_and_the_reasons_are_said(folder, capsys):
    assert main(["rank", str(folder), "--weights", "locality=1", "--require", "locality>=0.95"]) == 1
    said = capsys.readouterr().out
    assert "ike: locality is 0.900 [0.90, 0.90], and locality>=0.95 is required" in said
    assert "First" not in said


def test_without_costs_there_is_no_picture_and_criteria_of_costs_are_refused(folder, tmp_path, capsys):
    (folder / "costs.json").unlink()
    assert main(["rank", str(folder), "--weights", "locality=1", "--out", str(tmp_path / "out")]) == 0
    assert "no picture" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ranking.json"]
    assert main(["rank", str(folder), "--weights", "locality=1,time=1"]) == 2
    assert "there is no costs.json beside summary.json" in capsys.readouterr().err
    assert main(["rank", str(folder), "--weights", "locality=1", "--plot", "locality,reliability"]) == 0
    assert "limits aside: rome, ike" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--weights", "realiability=1"), "unknown criterion 'realiability' for single edits"),
        (("--weights", "realiability=1"), "Did you mean 'reliability'?"),
        (("--weights", "reliability=-1"), "a weight is a number from 0 on, but reliability has -1"),
        (("--weights", "reliability=inf"), "a weight is a number from 0 on"),
        (("--weights", "reliability=0,locality=0"), "a weight above 0"),
        (("--weights", ""), "a weight above 0"),
        (("--weights", "reliability=1e308,locality=1e308"), "none too large to add"),
        (("--weights", "reliability"), "takes CRITERION=NUMBER"),
        (("--weights", "reliability=much"), "takes CRITERION=NUMBER"),
        (("--weights", "=1"), "takes CRITERION=NUMBER"),
        (("--weights", "reliability=1,reliability=2"), "reliability has two weights"),
        (("--weights", "tokens=1"), "no method of single edits has a value of it"),
        (("--weights", "locality=1", "--require", "locality=0.9"), "takes a limit such as"),
        (("--weights", "locality=1", "--require", "locality>=high"), "takes a limit such as"),
        (("--weights", "locality=1", "--require", "locality>=nan"), "takes a limit such as"),
        (("--weights", "locality=1", "--require", "lokality>=0.9"), "--require: unknown criterion 'lokality'"),
        (("--weights", "locality=1", "--mode", "sequence"), "has no sequence edits; it has single; batch of 10, 20."),
        (("--weights", "locality=1", "--mode", "batch"), "name the number of edits with --size"),
        (("--weights", "locality=1", "--mode", "batch", "--size", "3"), "has no batch of 3"),
        (("--weights", "locality=1", "--size", "3"), "has no single of 3"),
        (("--weights", "locality=1", "--plot", "time"), "--plot takes two different criteria"),
        (("--weights", "locality=1", "--plot", "time,time"), "--plot takes two different criteria"),
        (("--weights", "locality=1", "--plot", "time,timely"), "--plot: unknown criterion 'timely'"),
        (("--weights", "locality=1", "--draws", "0"), "--draws is a number from 1 on"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(folder, tmp_path, capsys, arguments, said):
    assert main(["rank", str(folder), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("editguard: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_wrong_folder_and_a_damaged_file_are_one_line(folder, tmp_path, capsys):
    for path, said in ((tmp_path / "nowhere", "there is no folder"), (tmp_path, "holds no summary.json")):
        assert main(["rank", str(path), "--weights", "locality=1"]) == 2
        assert said in capsys.readouterr().err
    (folder / "costs.json").write_text(
        '{"rows": [{"method": "rome", "mode": "single", "size": 1, "seconds_per_edit": []}]}'
    )
    assert main(["rank", str(folder), "--weights", "locality=1"]) == 2
    error = capsys.readouterr().err
    assert "costs.json, record 1: seconds_per_edit: [] is no finite number" in error
    assert error.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert main(["rank", str(folder), "--weights", "locality=1", "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=[] if path.name == "pocket-memory" else [pytest.mark.slow])
        for path in sorted(STUDIES.iterdir())
        if path.is_dir()
    ],
)
def test_every_committed_study_can_be_ranked_in_every_mode(name, tmp_path, capsys):
    for mode in (("--mode", "single"), ("--mode", "batch", "--size", "100"), ("--mode", "sequence", "--size", "100")):
        weights = "reliability=3,portability/one_hop_think=2,locality=1,other_tasks=1,fluency=1,time=0.5"
        out = tmp_path / mode[1]
        assert (
            main(["rank", str(STUDIES / name), *mode, "--weights", weights, "--out", str(out), "--draws", "2000"]) == 0
        )
        record = json.loads((out / "ranking.json").read_text())
        rows = json.loads((STUDIES / name / "summary.json").read_text())["rows"]
        measured = {(row["method"], row["mode"]): row["numbers"] for row in rows if row["size"] in (1, 100)}
        for each in record["methods"]:
            means = measured[each["method"], mode[1]]
            assert each["criteria"]["reliability"]["value"] == means["reliability"]["mean"]
        assert {each["method"] for each in record["methods"]} | {each["method"] for each in record["unranked"]} == set(
            json.loads((STUDIES / name / "summary.json").read_text())["study"]["methods"]
        )
        assert sum(each["share_of_weights"] for each in record["methods"]) == pytest.approx(1.0)
    capsys.readouterr()


def test_the_example_in_the_guide_shows_what_the_command_prints_of_each_method(capsys, monkeypatch):
    """The study may grow: methods may join those that the guide shows."""
    text = (STUDIES.parent / "choose-a-method.md").read_text(encoding="utf-8")
    command = text[text.index("    editguard rank docs/studies/pocket-frozen") :].partition("\n\n")[0]
    arguments = shlex.split(command.replace("\\\n", " ").replace("docs/studies", str(STUDIES)).partition(" --out ")[0])
    monkeypatch.setenv("COLUMNS", "116")
    assert main(arguments[1:]) == 0
    example = text.partition("```\n")[2].partition("\n```")[0]

    def rows(output):
        lines = output.partition("---\n")[2].partition("\n\n")[0].splitlines()
        return {tuple(line.split()[1:]): below.split() for line, below in zip(lines[::2], lines[1::2], strict=True)}

    shown, printed = rows(example), rows(capsys.readouterr().out)
    assert len(shown) >= 4
    assert shown.items() <= printed.items()


def test_ike_wins_the_single_edits_of_the_pocket_model_where_portability_counts(capsys):
    """The figures of the guide."""
    arguments = ["--weights", "reliability=3,portability=2,locality=1,time=0.5", "--require", "locality>=0.75"]
    assert main(["rank", str(STUDIES / "pocket"), *arguments, "--draws", "1000"]) == 0
    said = capsys.readouterr().out
    assert "First: ike" in said
    assert "rome: locality is 0.749 [0.73, 0.77], and locality>=0.75 is required (in doubt" in said
    assert "ft-m is level once 29.1% of the weight moves" in said
    assert "do not tell the two apart" not in said


def test_a_close_race_is_called_one(capsys):
    arguments = ["--weights", "reliability=3,portability=2,locality=3,other_tasks=3", "--draws", "1000"]
    assert main(["rank", str(STUDIES / "pocket"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "It leads ft-m by 0.001; the intervals of the values allow +- 0.0" in said
    assert "do not tell the two apart" in said
