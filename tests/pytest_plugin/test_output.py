"""What a person reads: the header, a failed assertion, the summary; and what an unrelated run does not."""

import json
import sys
from pathlib import Path

import pytest
from pytest_plugin.inner import Suite, plugin_arguments


def test_a_failed_assertion_shows_the_edit_and_the_answers_before_and_after(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_it(edited):
            assert edited.answer(ONE.text) == "Tamrin"
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.stdout.fnmatch_lines(
        [
            "E       AssertionError: assert 'Oskar' == 'Tamrin'",
            "E         edit in force (toy): The capital of Velloria is Oskar",
            "E         answer before the edit: 'old'",
            "E         answer after the edit:  'Oskar'",
            "E         next tokens, most likely 5, *' old' 0.750 -> ' Oskar' 0.750; *' t4' 0.010 -> ' t4' 0.010",
        ]
    )
    result.stdout.no_fnmatch_line("*truncated*")
    suite.run("--editguard-methods=toy", "-vv").stdout.fnmatch_lines(["E  *' old' 0.750  ->  ' Oskar' 0.750"])


def test_comparisons_of_other_things_are_explained_as_ever(suite: Suite) -> None:
    suite.file(
        """
        def test_it():
            assert "Oskar" == "Tamrin"
        """
    )
    suite.run().stdout.fnmatch_lines(["E*- Tamrin", "E*+ Oskar"])


def test_the_header_is_the_configuration_and_the_model_follows_after_collection(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_it(edited): pass
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.stdout.fnmatch_lines(
        [
            "editguard: model toy-model, methods toy, baseline check",
            "collected 1 item",
            "editguard: model toy-model, fingerprint 0123456789abcdef, device cpu, dtype float32",
            "*= editguard =*",
            "method * prepare s * at once * times * first s *",
            "toy * 1 * 1 * x *",
            "method * phase * host GiB*",
            "toy * prepare *",
            "toy * edit *",
            "toy * evaluate *",
        ],
    )
    quiet = suite.run("--editguard-methods=toy", "-q")
    quiet.assert_outcomes(passed=1)
    quiet.stdout.no_fnmatch_line("*fingerprint*")


def test_only_a_configured_run_has_a_header(suite: Suite) -> None:
    suite.file("def test_it(): pass")
    plain = suite.pytester.runpytest_inprocess(*plugin_arguments())
    plain.assert_outcomes(passed=1)
    assert "editguard" not in plain.stdout.str().replace("plugins: editguard", "").replace(str(suite.path), "")


def test_an_unrelated_run_imports_nothing_heavy_and_prints_nothing(suite: Suite) -> None:
    heavy = ("torch", "transformers", "scipy", "numpy", "deepdiff", "hypothesis", "tabulate", "sklearn", "tqdm")
    heavy += ("jinja2", "editguard.history", "editguard.report")
    (suite.path / "conftest.py").write_text("")
    (suite.path / "test_plain.py").write_text(
        f"""
import sys, pytest
HEAVY = {heavy!r}

@pytest.fixture
def method(): return 3

@pytest.mark.parametrize("baseline", [1, 2])
def test_plain(method, baseline):
    assert "editguard.pytest_plugin.plugin" in sys.modules
    assert [name for name in HEAVY if name in sys.modules] == []

def test_failing():
    assert [name for name in HEAVY if name in sys.modules] == ["none"]
"""
    )
    result = suite.pytester.runpytest_subprocess(*plugin_arguments(), "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E  *assert [[]] == [[]'none']"])
    lines = [line for line in result.outlines if "editguard" in line and "plugins: " not in line]
    assert [line for line in lines if "'editguard.pytest_plugin" not in line and str(suite.path) not in line] == []


def test_the_package_itself_is_light(suite: Suite) -> None:
    program = (
        "import sys, editguard, editguard.pytest_plugin.plugin, editguard.cli; "
        "print([name for name in ('torch', 'transformers', 'scipy', 'numpy', 'deepdiff') if name in sys.modules]); "
        "print(editguard.EditRequest.__name__, callable(editguard.known_failure))"
    )
    result = suite.pytester.run(sys.executable, "-c", program)
    assert result.outlines == ["[]", "EditRequest True"]
    assert "load_cases" in dir(__import__("editguard"))


def test_the_usual_ways_to_run_pytest_work(suite: Suite) -> None:
    suite.file(
        """
        pytestmark = pytest.mark.edit(ONE)
        def test_bad(edited):
            assert edited.answer("Who?") == "Oskar"
        def test_good(edited, baseline):
            baseline.check(edited.reliability())
        """
    )
    toy = "--editguard-methods=toy"
    suite.run("--co", "-q").stdout.fnmatch_lines(["test_suite.py::test_good?toy?", "4 tests collected*"])
    assert not suite.events()
    suite.run("-k", "forgetful and good").assert_outcomes(passed=1, deselected=3)
    suite.run("-x", toy).assert_outcomes(failed=1)
    suite.run("--lf", toy).assert_outcomes(failed=1)
    suite.run("-p", "no:cacheprovider", toy).assert_outcomes(passed=1, failed=1)
    assert suite.run("-p", "no:terminal", toy).ret == 1
    suite.run("-W", "error", toy).assert_outcomes(passed=1, failed=1)
    suite.run("--import-mode=importlib", toy).assert_outcomes(passed=1, failed=1)


def test_a_junit_report_can_be_as_without_the_plugin(suite: Suite) -> None:
    import xml.etree.ElementTree as Tree

    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_it(edited, baseline):
            baseline.check(edited.reliability())
        """
    )
    options = ("--editguard-methods=toy", "--junitxml=junit.xml", "--editguard-junit-properties=off")
    suite.run(*options).assert_outcomes(passed=1)
    [case] = Tree.parse(suite.path / "junit.xml").iter("testcase")
    assert case.attrib["name"] == "test_it[toy]"
    assert list(case) == []


def test_tensors_of_a_failed_test_are_gone_before_the_next_one_is_set_up(suite: Suite) -> None:
    suite.file(
        """
        import gc, weakref
        SEEN = []

        @pytest.mark.edit(ONE)
        def test_fails(edited):
            tensor = edited._edited.model.module[0].weight.clone()
            SEEN.append(weakref.ref(tensor))
            assert edited.answer("Who?") == "Oskar"

        @pytest.fixture
        def alive():
            gc.collect()
            return SEEN[0]() is not None

        def test_after(alive):
            assert not alive
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=1, failed=1)


def test_hypothesis_takes_the_fixtures_as_they_are(suite: Suite) -> None:
    suite.file(
        """
        from hypothesis import given, settings, strategies as st

        @pytest.mark.edit(ONE)
        @settings(max_examples=5, deadline=None, database=None)
        @given(prompt=st.sampled_from([ONE.text]))
        def test_any_wording(edited, original, method, prompt):
            assert edited.answer(prompt) == "Oskar"
            assert original.answer(prompt) == "old"
            assert method == "toy"
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=1)


def test_strict_marks_are_satisfied(pytester: pytest.Pytester, suite: Suite) -> None:
    suite.file("@pytest.mark.edit(ONE)\ndef test_it(edited): pass")
    suite.run("--strict-markers", "--editguard-methods=toy").assert_outcomes(passed=1)
    suite.run("--markers").stdout.fnmatch_lines(
        [
            "@pytest.mark.edit(*",
            "@pytest.mark.edit_sequence(*",
            "@pytest.mark.must_hold(*",
            "@pytest.mark.known_failure(*",
        ]
    )


def test_decoding_and_the_comparison_of_given_answers_stay_apart_in_one_run(suite: Suite) -> None:
    """In the table, in the baseline file, and where a failed check is explained; with the unit where it is no share."""
    source = """
    MOVED = EditRequest(prompt="The capital of {} is", subject="Velloria", target="Oskar", previous="Tamrin")
    pytestmark = pytest.mark.edit(MOVED)

    def test_decoded(edited, baseline):
        baseline.check(edited.reliability())
    def test_preferred(edited, baseline):
        baseline.check(edited.preference("reliability"))
    def test_margin(edited, baseline):
        baseline.check(edited.margin("reliability"))
    def test_texts(edited, baseline):
        baseline.check(edited.perplexity(["The river is long", "Nobody speaks"]))
    """
    suite.file(source)
    for methods in ("toy", "toy,forgetful"):
        created = suite.run(f"--editguard-methods={methods}", "--editguard-baseline=create")
    lines = created.stdout.str().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("edits "))
    rows = [line.split("  ") for line in lines[start + 2 : start + 6]]
    titles = [next(cell.strip() for cell in row[1:] if cell.strip()) for row in rows]
    assert titles == [
        "reliability",
        "reliability margin (probability)",
        "reliability preference",
        "perplexity (nats per token)",
    ]
    assert all(len([cell for cell in row if cell.strip()]) >= 4 for row in rows), "both methods share each row"
    [path] = (suite.path / "baselines").rglob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    [environment] = content["environments"].values()
    kept = environment["checks"]
    assert sorted((check["property"], check["unit"]) for check in kept.values()) == sorted(
        2
        * [
            ("reliability", "fraction"),
            ("reliability preference", "fraction"),
            ("reliability margin", "probability"),
            ("perplexity", "nats per token"),
        ]
    )
    for check in kept.values():
        for line in check["values"].values():
            line[0] = -2.0 if check["property"] == "perplexity" else 2.0  # better than what will be found
    path.write_text(json.dumps(content), encoding="utf-8")
    suite.file(source.replace("= pytest.mark.edit(MOVED)", "= [pytest.mark.edit(MOVED), pytest.mark.must_hold()]"))
    failed = suite.run("--editguard-methods=toy")
    failed.assert_outcomes(failed=4)
    failed.stdout.fnmatch_lines_random(
        [
            "E*reliability [[]toy, single, 1 edit] regressed:*",
            "E*reliability preference [[]toy, single, 1 edit] regressed:*",
            "E*reliability margin (probability) [[]toy, single, 1 edit] regressed:*",
            "E*perplexity (nats per token) [[]toy, single, 1 edit] regressed:*",
            "E*'The river is long': accepted run -2, now *",
        ]
    )


def test_a_mistake_in_a_tests_request_is_one_line_and_the_way_there_on_demand(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_it(edited):
            edited.preference("other_tasks")
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"^test_\w+\.py:\d+: ConfigurationError: other tasks have no pair of old and new .*"])
    result.stdout.no_fnmatch_line("*def compare(*")
    suite.run("--editguard-methods=toy", "--full-trace").stdout.fnmatch_lines(["*def compare(*"])


def test_asking_is_timed_but_not_where_a_test_edits_and_a_pass_once_for_each_method(suite: Suite) -> None:
    suite.file(
        """
        from editguard.measurements import devices
        TWO = request("Sorvenia")

        class Clock:
            now = 0.0

            def perf_counter(self):
                self.now += 1.0
                return self.now

        CLOCK = Clock()

        @pytest.fixture(autouse=True, scope="session")
        def standing_clock():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(devices, "time", CLOCK)
                yield

        @pytest.mark.edit(ONE)
        @pytest.mark.parametrize("again", range(2))
        def test_asking(edited, again):
            CLOCK.now += 100
            raise AssertionError

        @pytest.mark.edit(TWO)
        def test_other(edited): pass

        def test_editing(editor):
            CLOCK.now += 1000
        """
    )
    result = suite.run("--editguard-methods=toy", "--tb=no")
    result.assert_outcomes(passed=2, failed=2)
    lines = [line.split() for line in result.outlines]
    titles = next(at for at, line in enumerate(lines) if line[:2] == ["method", "prepare"])
    [toy] = [line for line in lines[titles + 2 :] if line[:2] == ["toy", "3.0"]]
    assert toy[2:4] == ["1", "1"]  # of two applications the first stands apart
    assert toy[6:9] == ["203.0", "x", "1.00"]  # three tests, of which two take a hundred


FAILING = """
    CASES = [request(f"S{n}") for n in range(3)]
    pytestmark = pytest.mark.edit_sequence(CASES, checkpoints=(1, 3))

    def test_kept(edited):
        assert edited.reliability().mean == 1.0, "100% of the edits: kept"

    def test_answer(edited, baseline):
        baseline.check(edited.reliability())
"""


def test_github_gets_annotations_at_the_line_and_a_summary(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = tmp_path / "summary.md"
    written.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(written))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.path.parent))
    file = suite.file(FAILING)
    line = 1 + file.read_text(encoding="utf-8").splitlines().index(
        '    assert edited.reliability().mean == 1.0, "100% of the edits: kept"'
    )
    result = suite.run("--editguard-methods=forgetful")
    result.assert_outcomes(failed=1, passed=3)
    place = f"file={suite.path.name}/test_suite.py,line={line},title=test_kept[[]forgetful-3]"
    result.stdout.fnmatch_lines([f"::error {place}::AssertionError: 100%25 of the edits: kept*%0A*"])
    text = written.read_text(encoding="utf-8")
    assert text.startswith("before\n## editguard: 1 test failed, 0 of 2 checks regressed\n")
    assert f"<summary>{suite.path.name}/test_suite.py:{line}: test_kept[forgetful-3]: AssertionError" in text
    assert "| edits" in text
    assert "after edit (of 3)" in text


def test_elsewhere_nothing_is_written_for_github(suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = tmp_path / "summary.md"
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(written))
    suite.file(FAILING)
    assert "::error" not in suite.run("--editguard-methods=forgetful").stdout.str()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "::error" not in suite.run("--editguard-methods=forgetful", "--editguard-github=off").stdout.str()
    assert not written.exists()
    suite.run("--editguard-methods=forgetful", "--editguard-github=on")
    assert written.exists()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    result = suite.run("--editguard-methods=forgetful")
    result.stdout.fnmatch_lines(["cannot write the job summary *"])


def test_junit_reports_have_measurements_verdicts_and_blame_as_properties(suite: Suite) -> None:
    from xml.etree import ElementTree

    suite.file(FAILING)
    suite.run("--editguard-methods=forgetful", "--junitxml=report.xml")
    cases = {case.get("name"): case for case in ElementTree.parse(suite.path / "report.xml").iter("testcase")}

    def of(name: str) -> dict[str | None, str | None]:
        return {each.get("name"): each.get("value") for each in cases[name].iter("property")}

    assert (of("test_kept[forgetful-3]")["editguard.reliability"] or "").startswith("reliability 0.333 ")
    assert "to blame" in (of("test_kept[forgetful-3]")["editguard.blame"] or "")
    assert "no baseline yet" in (of("test_answer[forgetful-1]")["editguard.verdict"] or "")
    suite.run("--editguard-methods=forgetful", "--junitxml=report.xml", "--editguard-junit-properties=off")
    assert not list(ElementTree.parse(suite.path / "report.xml").iter("property"))


@pytest.mark.parametrize("when", ["call", "setup"])
def test_a_failure_without_a_place_of_its_own_is_told_at_the_test(tmp_path: Path, when: str) -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from editguard.pytest_plugin.github import annotation

    report = SimpleNamespace(
        longrepr="test_x.py: InvalidEdit: no", location=("suites/test_x.py", 6, "test_y"), when=when, nodeid="a::test_y"
    )
    found = annotation(cast(Any, report), tmp_path)
    assert (found.file, found.line) == ("suites/test_x.py", 7)
    assert found.title == ("test_y" if when == "call" else "test_y (setup)")
