"""The configuration comes from flags, ini keys and the project's table, and is checked when pytest starts."""

from collections.abc import Callable

import pytest
from pytest_plugin.inner import Suite

from editguard.comparison.verdict import ALPHA, MINIMUM_EFFECT
from editguard.errors import ConfigurationError
from editguard.pytest_plugin import options

Read = Callable[..., options.Configuration]


@pytest.fixture
def read(suite: Suite) -> Read:
    """Read the configuration of an inner run that is given these arguments."""

    def read_options(*arguments: str) -> options.Configuration:
        return options.read(suite.pytester.parseconfig(*arguments))

    return read_options


def test_a_flag_wins_over_an_ini_key_and_that_over_the_projects_table(suite: Suite, read: Read) -> None:
    suite.pytester.makepyprojecttoml("[tool.editguard]\nseed = 1\nbatch-size = 8\nalpha = 0.01\n")
    suite.pytester.makeini("[pytest]\neditguard_seed = 2\neditguard_batch_size = 4\n")
    found = read("--editguard-seed=3")
    assert (found.seed, found.batch_size, found.alpha) == (3, 4, 0.01)
    assert set(found.given) == {"seed", "batch_size", "alpha"}


def test_nothing_given_is_the_embedded_model_and_the_default_methods(read: Read) -> None:
    found = read()
    assert (found.model, found.methods, found.baseline, found.given) == ("pocket", ("default",), "check", ())
    assert (found.alpha, found.minimum_effect) == (ALPHA, MINIMUM_EFFECT)


def test_native_tables_of_pytest_are_read_with_their_types(suite: Suite, read: Read) -> None:
    suite.pytester.makepyprojecttoml(
        "[tool.pytest]\neditguard_seed = 5\neditguard_offline = true\neditguard_alpha = 0.2\n"
        "editguard_methods = ['rome', 'ike']\neditguard_undecided = 'fail'\n"
    )
    found = read()
    assert (found.seed, found.offline, found.alpha, found.methods, found.undecided) == (
        5,
        True,
        0.2,
        ("rome", "ike"),
        "fail",
    )


def test_settings_of_methods_stand_in_tables(suite: Suite, read: Read) -> None:
    (suite.path / "d.jsonl").write_text("")
    suite.pytester.makepyprojecttoml(
        "[tool.editguard]\ndemonstrations = 'd.jsonl'\n[tool.editguard.methods.rome]\nlayer = 3\n"
    )
    found = read()
    assert found.settings == {"rome": {"layer": 3}}
    assert found.demonstrations == suite.path / "d.jsonl"


def test_the_values_of_all_options_are_plain_text_so_that_workers_get_them(suite: Suite) -> None:
    config = suite.pytester.parseconfig("--editguard-methods=a,b", "--editguard-seed=1", "--editguard-offline")
    for option in options.OPTIONS:
        assert isinstance(config.getoption(option.dest), (str, type(None)))


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.name)
def test_every_option_is_in_the_help_and_among_the_ini_keys(
    pytestconfig: pytest.Config, option: options.Option, help_text: str
) -> None:
    assert option.flag in help_text
    assert f"{option.dest} (" in help_text


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `pytest --help` prints."""
    import subprocess
    import sys

    from pytest_plugin.inner import plugin_arguments

    run = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin_arguments(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path_factory.mktemp("help"),
    )
    return run.stdout


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--editguard-methods=rone", "unknown editing method 'rone'; registered are "),
        ("--editguard-methods=,", "--editguard-methods must name at least one method"),
        ("--editguard-baseline=chek", "--editguard-baseline must be one of check, *Did you mean 'check'?"),
        ("--editguard-device-map=blanced", "--editguard-device-map must be one of auto, balanced"),
        ("--editguard-device=gpu", "--editguard-device must be auto, cpu, cuda"),
        ("--editguard-dtype=int8", "--editguard-dtype must be one of auto, float32"),
        ("--editguard-seed=x", "--editguard-seed must be a whole number; it is 'x'."),
        ("--editguard-batch-size=0", "--editguard-batch-size must be at least 1"),
        ("--editguard-case-limit=-1", "--editguard-case-limit must be at least 0"),
        ("--editguard-alpha=1.5", "--editguard-alpha must lie between 0 (excluded) and 1"),
        ("--editguard-alpha=nan", "--editguard-alpha must lie between"),
        ("--editguard-minimum-effect=-1", "--editguard-minimum-effect must lie between"),
        ("--editguard-corpus=missing.txt", "--editguard-corpus is not a file; it is 'missing.txt'."),
        ("--editguard-training=missing.jsonl", "--editguard-training is not a file; it is 'missing.jsonl'."),
        ("--editguard-chat-template=maybe", "--editguard-chat-template must be one of auto, on, off"),
        ("--editguard-undecided=ignore", "--editguard-undecided must be one of pass, fail"),
        ("--editguard-model= ", "--editguard-model must not be empty"),
    ],
)
def test_a_bad_flag_is_a_usage_error_at_the_start(suite: Suite, argument: str, message: str) -> None:
    suite.file("def test_it(): raise AssertionError('must not run')")
    result = suite.run(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: editguard: {message.replace('[', '[[]')}*"])
    result.stderr.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[tool.editguard]\nsede = 3", "*pyproject.toml: [[]tool.editguard] has no key 'sede'. Did you mean 'seed'?"),
        ("[tool.editguard]\nseed = 'x'", "[[]tool.editguard] seed must be a whole number; it is 'x'."),
        ("[tool.editguard]\ndemonstrations = 'no.jsonl'", "*demonstrations is not a file*"),
        ("[tool.editguard.methods]\nrome = 3", "[[]tool.editguard.methods.rome] must be a table of settings."),
        ("[tool.editguard.methods.rone]\nlayer = 3", "unknown editing method 'rone'*"),
        ("[tool.pytest]\neditguard_seed = -1", "the ini key editguard_seed must be at least 0*"),
    ],
)
def test_a_bad_table_is_a_usage_error_at_the_start(suite: Suite, table: str, message: str) -> None:
    suite.pytester.makepyprojecttoml(table)
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: editguard: {message}"])


def test_a_model_that_cannot_be_loaded_is_one_message_and_no_test_runs(suite: Suite) -> None:
    suite.file(
        """
        from editguard.errors import ModelNotLoaded
        from editguard.models import loading

        def fail(name, **options):
            raise ModelNotLoaded(f"there is no directory {name}")

        loading.load_model = fail

        @pytest.mark.edit(ONE)
        def test_it(edited): pass
        """
    )
    result = suite.run(model="/nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: editguard: there is no directory /nowhere"])
    suite.run("--co", "-q", model="/nowhere").stdout.fnmatch_lines(["test_suite.py::test_it?toy?"])


def test_a_device_map_is_a_rule_text_or_a_table(suite: Suite, read: Read) -> None:
    assert read().device_map is None
    assert read("--editguard-device-map=balanced").device_map == "balanced"
    (suite.path / "map.json").write_text('{"transformer": 0, "lm_head": "cpu"}')
    suite.pytester.makepyprojecttoml("[tool.editguard.device-map]\ntransformer = 1\nlm_head = 'cuda:0'\n")
    found = read()
    assert found.device_map == {"transformer": 1, "lm_head": "cuda:0"}
    assert "device-map of 2 parts" in found.header
    assert read("--editguard-device-map=map.json").device_map == {"transformer": 0, "lm_head": "cpu"}


def test_one_device_and_several_exclude_each_other(read: Read) -> None:
    with pytest.raises(ConfigurationError, match="give --editguard-device or --editguard-device-map, not both"):
        read("--editguard-device=cpu", "--editguard-device-map=auto")
