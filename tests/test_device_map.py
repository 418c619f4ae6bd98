"""Where a model goes: what the options take, and the one line for each thing that can be wrong."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editguard import one_hop_command, trace_command, train_command
from editguard.device_map import RULES, add_device_options, chosen_devices, read_device_map, refuse_both
from editguard.errors import ConfigurationError
from editguard.study.options import add_arguments as add_study_arguments

parts = st.text('model.0é"\\ ', max_size=12)
devices = st.integers(0, 9) | st.sampled_from(["cpu", "disk", "cuda:1", "mps"])


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_device_options(parser)
    return parser.parse_args(arguments)


@settings(max_examples=30)
@given(st.dictionaries(parts, devices, min_size=1, max_size=4))
def test_a_map_is_the_same_as_a_table_as_text_and_in_a_file(
    tmp_path_factory: pytest.TempPathFactory, device_map: dict[str, int | str]
) -> None:
    path = tmp_path_factory.mktemp("maps") / "map.json"
    path.write_text(json.dumps(device_map), encoding="utf-8")
    texts = (device_map, json.dumps(device_map), f" {json.dumps(device_map, indent=1)}\n", path, str(path))
    assert all(read_device_map(text) == device_map for text in texts)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_taken_as_it_is(rule: str) -> None:
    assert read_device_map(f" {rule} ") == rule
    assert chosen_devices(parsed("--device-map", rule)) == {"device_map": rule}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("blanced", r"one of auto, balanced.*a JSON file.*Did you mean 'balanced'"),
        ("cuda:1", "one of auto"),
        ("", "one of auto"),
        ("no/such/map.json", "a JSON file"),
        ('{"model.norm": ', "is no JSON object: Expecting value"),
        ("{}", "at least one part"),
        ('{"model.norm": -1}', "'model.norm' has -1"),
        ('{"model.norm": true}', "'model.norm' has True"),
        ('{"model.norm": null}', "'model.norm' has None"),
        ('{"model.norm": " "}', "'model.norm' has ' '"),
        ('{"model": {"norm": 0}}', "'model' has"),
    ],
)
def test_what_is_no_device_map_is_one_line_that_names_the_option(wrong: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        chosen_devices(parsed("--device-map", wrong))
    assert str(caught.value).startswith(f"--device-map {wrong!r} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[1]", "holds no JSON object, but list"), (b"{", "holds no JSON object: "), (b"\xff\xfe", "cannot be read")],
)
def test_a_file_without_a_map_is_named_as_one(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said):
        chosen_devices(parsed("--device-map", str(path)))


def test_one_device_and_several_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="give --device or --device-map, not both"):
        chosen_devices(parsed("--device", "cuda", "--device-map", "auto"))
    assert chosen_devices(parsed("--device", "cuda")) == {"device": "cuda"}
    assert chosen_devices(parsed("--device", "auto", "--device-map", "auto")) == {"device_map": "auto"}
    refuse_both("cuda", None, options=("device", "device_map"))


def added(name: str) -> list[str]:
    """The options of a command that takes a model."""
    program = argparse.ArgumentParser()
    if name == "study":
        add_study_arguments(program)
        return [text for action in program._actions for text in action.option_strings]
    commands: Any = program.add_subparsers()
    {"trace": trace_command, "train": train_command, "one-hop": one_hop_command}[name].add_parser(commands)
    [command] = commands.choices.values()
    steps = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    chosen = steps[0].choices["propose"] if steps else command
    return [text for action in chosen._actions for text in action.option_strings]


@pytest.mark.parametrize("name", ["study", "trace", "train", "one-hop"])
def test_every_command_that_loads_a_model_can_spread_it(name: str) -> None:
    assert {"--device", "--device-map"} <= set(added(name))
