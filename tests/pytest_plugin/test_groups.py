"""Edits are applied once per group, sequences grow, and nothing of a test stays in the model."""

import pytest
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

        def test_original(original):
            assert original.answer(ONE.text) == "old"
            assert original.reliability().n == 1

        def test_of_nothing(): pass
        """
    )
    result = suite.run("-v")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(
        ["*test_reliability?toy? PASSED*", "*test_locality?forgetful? PASSED*", "*test_original PASSED*"]
    )


def test_each_group_is_applied_once_whatever_the_order_of_the_tests(suite: Suite) -> None:
    for name in ("test_b", "test_a"):
        suite.file(
            """
            @pytest.mark.edit(ONE)
            def test_first(edited): pass

            @pytest.mark.edit(request("Other"))
            def test_between(edited): pass

            @pytest.mark.edit(ONE)
            def test_last(edited): pass
            """,
            name,
        )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=6)
    assert [event["requests"] for event in suite.events("apply")] == [["Velloria"], ["Other"]]


def test_other_settings_are_another_group(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_plain(edited): pass

        @pytest.mark.edit(ONE, settings={"forgetful": {}})
        def test_same(edited): pass

        @pytest.mark.edit(ONE, settings={"toy": {"layer": 3}})
        def test_unknown_setting(edited): pass
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=2, errors=1)
    assert len(suite.events("apply")) == 1
    result.stdout.fnmatch_lines(["*InvalidSettings: *toy*has no settings*layer*"])


def test_a_sequence_grows_from_checkpoint_to_checkpoint(suite: Suite) -> None:
    suite.file(
        """
        SEQUENCE = [request(f"City{n}") for n in range(5)]
        pytestmark = pytest.mark.edit_sequence(SEQUENCE, checkpoints=(1, 3, 5))

        def test_retention(edited):
            assert [edited.answer(r.text) for r in SEQUENCE].count("Oskar") == edited.edits

        def test_again(edited):
            assert edited.reliability().n == edited.edits
        """
    )
    result = suite.run("--editguard-methods=toy", "-v")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*test_again?toy-1? *", "*test_retention?toy-3? *", "*test_retention?toy-5? *"])
    assert [event["on"] for event in suite.events("apply")] == [0, 1, 2, 3, 4]


def test_a_later_request_supersedes_an_earlier_one_of_a_sequence(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit_sequence([ONE, request("Other"), request("Velloria", "Tamrin")], checkpoints=(2, 3))
        def test_retention(edited):
            measured = edited.reliability()
            assert measured.mean == 1.0
            assert (measured.n, measured.superseded) == ((2, 0) if edited.edits == 2 else (2, 1))
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*1 superseded*"])


def test_a_test_that_writes_to_the_weights_is_an_error_and_the_next_one_is_not(suite: Suite) -> None:
    suite.file(
        """
        pytestmark = pytest.mark.edit(ONE)

        @pytest.mark.parametrize("how", ["data", "hook", "training"])
        def test_leak(edited, how):
            module = edited._edited.model.module
            if how == "data":
                module[1].bias.data.add_(1)
            elif how == "hook":
                module[0].register_forward_hook(lambda *_: None)
            else:
                module.train()

        def test_after(edited):
            module = edited._edited.model.module
            assert not module.training and not module[0]._forward_hooks
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=4, errors=3)
    result.stdout.fnmatch_lines(["*ModelChanged: the test left the model changed: 1.bias.*"])
    result.stdout.fnmatch_lines(["*left the model changed: hooks on 0*"])
    result.stdout.fnmatch_lines(["*left the model changed: training mode*"])
    result.stdout.no_fnmatch_line("*During handling of*")


def test_one_value_written_in_place_is_found_though_no_sample_holds_it(suite: Suite) -> None:
    suite.file(
        """
        import torch
        pytestmark = pytest.mark.edit(ONE)

        def test_in_place(edited):
            with torch.no_grad():
                edited._edited.model.module[2].weight[63, 1] += 1

        def test_after(edited): pass
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_in_place*", "*ModelChanged: *2.weight changed*"])


def test_a_hidden_change_is_found_at_the_end_of_the_group_and_the_next_group_is_clean(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE)
        def test_hidden(edited):
            edited._edited.model.module[2].weight.data[63, 1] += 1

        @pytest.mark.edit(ONE)
        def test_last_of_the_group(edited): pass

        @pytest.mark.edit(request("Other"))
        def test_next_group(edited):
            edited._edited.model.weights.verify()
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_last_of_the_group*", "*ModelChanged: *2.weight changed*"])
    assert len(suite.events("load")) == 2


@pytest.mark.parametrize("touched", ["edited", "original"])
def test_the_state_is_put_back_when_a_test_leaves_another_one_in_force(suite: Suite, touched: str) -> None:
    suite.file(
        f"""
        pytestmark = pytest.mark.edit(ONE)

        def test_switches(edited, original):
            {touched}.activate()

        def test_still_edited(edited):
            assert len(edited._edited.model.installed) == 1
            assert edited.answer(ONE.text) == "Oskar"
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=2)


def test_a_refusal_skips_the_tests_and_is_counted_with_its_reason(suite: Suite) -> None:
    suite.file(
        """
        pytestmark = pytest.mark.edit(ONE)
        def test_one(edited): pass
        def test_two(edited): pass
        """
    )
    result = suite.run("--editguard-methods=refusing,toy")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(["*2 tests refused by refusing: this model has no such part.*"])
    assert [event["method"] for event in suite.events("apply")] == ["refusing", "toy"]


def test_a_known_failure_turns_red_when_it_starts_to_pass(suite: Suite) -> None:
    suite.file(
        """
        pytestmark = [
            pytest.mark.edit_sequence([ONE, request("Other")]),
            pytest.mark.known_failure("forgetful", "toy", reason="keeps the newest edit alone"),
        ]
        def test_first_edit_survives(edited):
            assert edited.answer(ONE.text) == "Oskar"
        """
    )
    result = suite.run("-rx")
    result.assert_outcomes(xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["*test_first_edit_survives?toy-2?*", "*XPASS(strict)* keeps the newest edit alone*"])


def test_a_known_failure_does_not_hide_an_error_of_the_method(suite: Suite) -> None:
    suite.file(
        """
        @pytest.mark.edit(ONE, settings={"toy": {"layer": 3}})
        @pytest.mark.known_failure("toy", reason="answers badly")
        def test_it(edited):
            assert False
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(errors=1)


def test_a_failing_method_is_tried_once_and_named_in_every_test(suite: Suite) -> None:
    suite.file(
        """
        pytestmark = pytest.mark.edit(ONE, settings={"toy": {"layer": 3}})
        def test_one(edited): pass
        def test_two(edited): pass
        """
    )
    result = suite.run("--editguard-methods=toy")
    result.assert_outcomes(errors=2)
    result.stdout.no_fnmatch_line("*Traceback*")


def test_tests_of_one_state_share_what_was_asked_and_no_others_do(suite: Suite) -> None:
    suite.file(
        """
        asked = []

        @pytest.fixture(autouse=True)
        def spy(monkeypatch):
            import toy
            plain = toy.ToyModel.generate
            def generate(self, prompts, **options):
                asked.append((len(self.installed), *prompts))
                return plain(self, prompts, **options)
            monkeypatch.setattr(toy.ToyModel, "generate", generate)

        pytestmark = pytest.mark.edit_sequence([ONE, request("Other")], checkpoints=(1, 2))

        def test_first(edited):
            edited.answer("Who?")

        def test_second(edited):
            edited.answer("Who?")
            assert asked == [(number, "Who?") for number in range(1, edited.edits + 1)]
        """
    )
    suite.run("--editguard-methods=toy").assert_outcomes(passed=4)


def test_a_curve_has_every_checkpoint_up_to_the_tests_own_whatever_else_runs(suite: Suite) -> None:
    suite.file(
        """
        CASES = [
            EditCase(
                request=request(f"S{n}"),
                probes=(Probe(property="locality", kind="neighbour", prompt=f"What is {n}?"),),
            )
            for n in range(6)
        ]

        @pytest.mark.edit_sequence(CASES, checkpoints=(1, 4, 6))
        def test_curve(edited, baseline):
            curve = edited.curve("reliability")
            assert curve.n == sum(n for n in (1, 4, 6) if n <= edited.edits)
            assert edited.curve("locality", "neighbour").kind == "neighbour"
            baseline.check(curve)
        """
    )
    suite.run("--editguard-methods=toy", "--editguard-baseline=create").assert_outcomes(passed=3)
    suite.forget_events()
    suite.run("--editguard-methods=toy", "-k", "toy-6").assert_outcomes(passed=1)
    assert len(suite.events("apply")) == 6
