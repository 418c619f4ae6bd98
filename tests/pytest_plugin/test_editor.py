"""The fixture `editor`: edits that a test draws itself are applied for a block and taken back behind it."""

from pytest_plugin.inner import Suite


def test_edits_of_a_test_hold_inside_their_block_and_are_gone_behind_it(suite: Suite) -> None:
    suite.file(
        """
        from editguard.errors import ConflictingEdits

        def test_block(editor, original):
            before = original.digest()
            with editor(ONE) as edited:
                assert edited.answer(ONE.text) == "Oskar"
                assert edited.digest() != before
            assert original.digest() == before
            assert original.answer(ONE.text) == "old"

        def test_nested(editor, original):
            with editor(ONE) as outer:
                one = outer.digest()
                with editor(request("Tamria", "Ona"), on=outer) as inner:
                    assert (inner.answer(ONE.text), inner.edits) == ("Oskar", 1)
                    assert inner.digest() not in (one, original.digest())
                assert outer.digest() == one

        def test_a_block_that_fails(editor, original):
            before = original.digest()
            with pytest.raises(ZeroDivisionError), editor(ONE):
                1 / 0
            assert original.digest() == before

        def test_contradicting_edits_are_refused(editor):
            with pytest.raises(ConflictingEdits), editor(ONE, request("Velloria", "Ona")):
                pass

        def test_a_closed_block_is_nothing_to_edit_on(editor):
            with editor(ONE) as closed:
                pass
            with pytest.raises(ValueError, match="enclosing"), editor(request("Tamria"), on=closed):
                pass
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=5)


def test_editor_runs_once_per_method_and_edits_on_top_of_the_mark(suite: Suite) -> None:
    suite.file(
        """
        def test_unmarked(editor, method):
            assert method in ("toy", "forgetful")

        @pytest.mark.edit(ONE)
        def test_marked(editor, edited):
            with editor(request("Tamria", "Ona")) as both:
                assert both.answer(request("Tamria").text) == "Ona"
                assert both.answer(ONE.text) == "Oskar"
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=2)
    suite.run("-k", "unmarked").assert_outcomes(passed=2)


def test_hypothesis_draws_the_edits(suite: Suite) -> None:
    suite.file(
        """
        from hypothesis import given, strategies as st

        @given(subject=st.sampled_from(["A", "B", "C"]))
        def test_any(editor, original, subject):
            before = original.digest()
            with editor(request(subject)) as edited:
                assert edited.answer(request(subject).text) == "Oskar"
            assert original.digest() == before
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=1)
