"""Edits are applied once per group, sequences grow, and nothing of a test stays in the model."""

from pytest_plugin.inner import Suite


def test_every_test_of_an_edited_model_runs_once_per_method(suite: Suite) -> None:
    suite.file(
        """
        pytestmark = pytest.mark.edit(ONE)

        def test_reliability(edited, method):
            assert edited.answer(ONE.text) == "Oskar"
            assert method in ("toy", "forgetful")

        def test_locality(edited, original):
            assert edited.answer("Who?") == original.answer("Who?") == "old"
        """
    )
    result = suite.run("-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*test_reliability?toy? PASSED*", "*test_locality?forgetful? PASSED*"])
