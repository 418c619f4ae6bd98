"""A bad declaration is one message with file and line, at collection; a good one means what it says."""

import pytest
from pytest_plugin.inner import HEAD, Suite

LINE = HEAD.count("\n") + 1
"""The line on which a suite file's own text begins, after the empty line that every source below starts with."""

BAD = {
    "a prompt without a slot": (
        'BAD = EditRequest(prompt="The capital is", subject="Velloria", target="Oskar")',
        1,
        "the prompt 'The capital is' has no {}: write exactly one {}*",
    ),
    "an empty target": (
        'BAD = EditRequest(prompt="Who is {}?", subject="Velloria", target=" ")',
        1,
        "*has an empty target*",
    ),
    "a subject that is not in the prompt": (
        'BAD = EditRequest.from_text("The capital of Ostra is", subject="Velloria", target="Oskar")',
        1,
        "the subject 'Velloria' does not occur in the prompt*",
    ),
    "a probe without an answer": (
        'BAD = [\n    Probe(property="portability", kind="one_hop", prompt="Who?"),\n]',
        2,
        "the one_hop probe 'Who?' needs at least one accepted answer*",
    ),
    "a contradiction within a batch": (
        '\npytestmark = [\n    pytest.mark.edit(ONE, request("Velloria", "Tamrin")),\n]\ndef test(edited): pass',
        3,
        "two requests of one batch contradict each other: *",
    ),
    "a contradiction on a test": (
        'def test_one(): pass\n@pytest.mark.edit([ONE, request("Velloria", "Tamrin")])\ndef test(edited): pass',
        2,
        "two requests of one batch contradict each other: *",
    ),
    "a contradiction on a class": (
        '@pytest.mark.edit([ONE, request("Velloria", "Tamrin")])\nclass TestIt:\n    def test(self, edited): pass',
        1,
        "two requests of one batch contradict each other: *",
    ),
    "an unknown method": (
        '@pytest.mark.edit(ONE, methods=["rone"])\ndef test(edited): pass',
        1,
        "unknown editing method 'rone'; registered are forgetful, refusing, toy.*",
    ),
    "settings of an unknown method": (
        '@pytest.mark.edit(ONE, settings={"toi": {}})\ndef test(edited): pass',
        1,
        "unknown editing method 'toi'*Did you mean 'toy'?",
    ),
    "settings that are no table": (
        '@pytest.mark.edit(ONE, settings={"toy": 3})\ndef test(edited): pass',
        1,
        "settings are given by method*",
    ),
    "a checkpoint beyond the sequence": (
        "@pytest.mark.edit_sequence([ONE], checkpoints=(1, 2))\ndef test(edited): pass",
        1,
        "the checkpoint 2 lies beyond the sequence, which has 1 edit.",
    ),
    "checkpoints that do not increase": (
        '@pytest.mark.edit_sequence([ONE, request("B")], checkpoints=(2, 1))\ndef test(edited): pass',
        1,
        "checkpoints must increase: (2, 1).",
    ),
    "a checkpoint before the first edit": (
        "@pytest.mark.edit_sequence([ONE], checkpoints=[0])\ndef test(edited): pass",
        1,
        "a checkpoint is a number of edits, at least 1, not 0.",
    ),
    "an argument that the mark does not have": (
        "@pytest.mark.edit(ONE, method='toy')\ndef test(edited): pass",
        1,
        "@pytest.mark.edit takes no argument 'method', only methods, settings.",
    ),
    "no edit at all": ("@pytest.mark.edit()\ndef test(edited): pass", 1, "no edit was declared*"),
    "something that is no edit": ("@pytest.mark.edit(7)\ndef test(edited): pass", 1, "an edit is an EditRequest*"),
    "two marks on one test": (
        '@pytest.mark.edit(ONE)\n@pytest.mark.edit(request("B"))\ndef test(edited): pass',
        1,
        "several edits are declared on test: *",
    ),
    "edited without a mark": (
        "def test_it(edited): pass",
        1,
        "test_it uses the fixture 'edited', but no edit is declared: put @pytest.mark.edit(EditRequest(...))*",
    ),
    "a known failure without a reason": (
        "@pytest.mark.edit(ONE)\n@pytest.mark.known_failure('toy')\ndef test(edited): pass",
        1,
        "@pytest.mark.known_failure needs a reason*",
    ),
    "a known failure of an unknown method": (
        "@pytest.mark.edit(ONE)\n@pytest.mark.known_failure('toi', reason='x')\ndef test(edited): pass",
        1,
        "unknown editing method 'toi'*",
    ),
    "something that cannot hold": (
        "@pytest.mark.edit(ONE)\n@pytest.mark.must_hold(3)\ndef test(edited): pass",
        1,
        "@pytest.mark.must_hold takes cases*not 3.",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_declaration_is_one_message_with_file_and_line(suite: Suite, what: str) -> None:
    source, line, message = BAD[what]
    path = suite.path / "test_suite.py"
    path.write_text(HEAD + source + "\n")
    result = suite.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    shown = message.replace("[", "[[]")
    result.stdout.fnmatch_lines([f"test_suite.py:{LINE + line - 1}: {shown}"])
    text = result.stdout.str()
    assert "Traceback" not in text
    assert "editguard/" not in text.replace("plugins: editguard", "")
    assert len(result.stdout.get_lines_after("*ERROR collecting*")) < 8


def test_the_full_traceback_is_there_for_those_who_ask(suite: Suite) -> None:
    suite.file("BAD = request('')")
    suite.run("--full-trace").stdout.fnmatch_lines(["*editguard/edits/request.py*"])


def test_other_errors_of_a_module_keep_their_traceback(suite: Suite) -> None:
    suite.file("raise ValueError('mine')")
    suite.run().stdout.fnmatch_lines(["*in <module>*", "E   ValueError: mine"])


def test_the_nearest_mark_counts(suite: Suite) -> None:
    suite.file(
        """
        pytestmark = pytest.mark.edit(ONE)

        @pytest.mark.edit_sequence([ONE, request("B")])
        class TestClass:
            def test_class(self, edited):
                assert edited.edits == 2

            @pytest.mark.edit(request("C"))
            def test_own(self, edited):
                assert edited.requests == (request("C"),)

        def test_module(edited):
            assert edited.requests == (ONE,)
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=3)


def test_a_mark_that_names_methods_is_for_these(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE, methods=["refusing"])
        def test_it(edited): pass
        """
    )
    suite.run("--co", "-q").stdout.fnmatch_lines(["test_suite.py::test_it?refusing?"])
    result = suite.run("--editguard-methods=toy", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*written for refusing; selected are toy"])
    assert not suite.events()


def test_a_case_limit_shortens_edits_and_checkpoints(suite: Suite) -> None:
    suite.file(
        """
        MANY = [request(f"City{n}") for n in range(9)]

        @pytest.mark.edit(MANY)
        def test_batch(edited):
            assert edited.edits == 4

        @pytest.mark.edit_sequence(MANY, checkpoints=(2, 5, 9))
        def test_sequence(edited):
            assert edited.edits in (2, 4)
        """
    )
    suite.run("--editguard-methods=toy", "--editguard-case-limit=4").assert_outcomes(passed=3)


def test_the_functions_of_the_package_are_the_marks(suite: Suite) -> None:
    suite.file(
        """
        import editguard

        @editguard.edit(ONE, request("B"), methods=["toy"])
        @editguard.known_failure("toy", reason="for show")
        def test_batch(edited):
            assert edited.edits == 3

        @editguard.edit_sequence([ONE, request("B")], checkpoints=[1])
        @editguard.must_hold()
        def test_sequence(edited):
            assert edited.edits == 1
        """
    )
    suite.run("--strict-markers").assert_outcomes(passed=2, xfailed=1)


def test_names_that_a_suite_takes_for_itself_stay_its_own(suite: Suite) -> None:
    suite.file(
        """
        @pytest.fixture
        def edited(): return "mine"

        @pytest.fixture
        def baseline(): return "mine too"

        def test_fixtures(edited, baseline):
            assert (edited, baseline) == ("mine", "mine too")

        @pytest.mark.parametrize("method", ["GET", "PUT"])
        def test_parameters(method):
            assert len(method) == 3

        @pytest.mark.edit(ONE)
        @pytest.mark.parametrize("method", ["GET"])
        def test_both(edited, method):
            assert (edited, method) == ("mine", "GET")
        """
    )
    suite.run().assert_outcomes(passed=4)


def test_a_fixture_of_the_suite_may_build_on_edited(suite: Suite) -> None:
    suite.file(
        """
        @pytest.fixture
        def answers(edited):
            return edited.answers([ONE.text])

        @pytest.mark.edit(ONE)
        def test_it(answers):
            assert answers == ["Oskar"]

        @pytest.mark.edit(ONE)
        def test_too_late(request):
            request.getfixturevalue("edited")
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the fixture 'edited' must be an argument of the test*"])
