"""The configuration: one table from which the flags, the ini keys and the `[tool.editguard]` keys are derived.

A value is looked for on the command line, then among pytest's ini keys (`editguard_model`), then in the table
`[tool.editguard]` of the root directory's pyproject.toml, then here. All of it is checked when pytest starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from editguard.device_map import HELP as DEVICE_MAP_HELP
from editguard.device_map import DeviceMap, read_device_map, refuse_both
from editguard.errors import ConfigurationError, closest
from editguard.storage import HISTORY_FILE, JOURNAL_FOLDER, refuse_unwritable

if TYPE_CHECKING:
    import pytest

    from editguard.comparison.policy import Policy

IniType = Literal["string", "bool", "args", "int", "float"]
CANDIDATE = "candidate"
"""The name in a method's place where a model is asked that was edited elsewhere."""
BASELINE_MODES = ("check", "create", "update", "prune", "off")


@dataclass(frozen=True)
class Option:
    """One setting: `read` turns the given text or value into the checked one, or raises ValueError."""

    name: str
    help: str
    read: Callable[[Any], Any]
    default: Any = None
    ini: IniType = "string"
    metavar: str | None = None
    table: bool = False
    """Whether `[tool.editguard]` may give a table."""

    @property
    def flag(self) -> str:
        return f"--editguard-{self.name.replace('_', '-')}"

    @property
    def dest(self) -> str:
        return f"editguard_{self.name}"


def _text(value: Any) -> str:
    if not str(value).strip():
        raise ValueError("must not be empty")
    return str(value).strip()


def _choice(*known: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if str(value) not in known:
            raise ValueError(f"must be one of {', '.join(known)}.{closest(str(value), known)}")
        return str(value)

    return read


def _device(value: Any) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(value)):
        raise ValueError("must be auto, cpu, cuda, cuda:<number> or mps")
    return str(value)


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+", str(value).strip()):
            raise ValueError("must be a whole number")
        if int(value) < least:
            raise ValueError(f"must be at least {least}")
        return int(value)

    return read


def _fraction(*, zero: bool) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError("must be a number") from None
        if not (0.0 <= number < 1.0) or (number == 0.0 and not zero):
            raise ValueError(f"must lie between 0 {'(included)' if zero else '(excluded)'} and 1 (excluded)")
        return number

    return read


def _switch(value: Any) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True}
    known |= {"false": False, "0": False, "no": False, "off": False}
    if str(value).strip().lower() not in known:
        raise ValueError("must be true or false")
    return known[str(value).strip().lower()]


def _names(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, (list, tuple)) else [value]
    names = [name for part in parts for name in re.split(r"[,\s]+", str(part)) if name]
    if not names:
        raise ValueError("must name at least one method, or be 'default' or 'all'")
    return tuple(dict.fromkeys(names))


def _file(value: Any) -> Path:
    path = Path(value).expanduser()
    if not path.is_file():
        raise ValueError("is not a file")
    return path


def _gate(value: Any) -> Mapping[str, Any] | Path:
    return value if isinstance(value, Mapping) else _file(value)


def _path_or_off(value: Any) -> Path | None:
    if value is True or not str(value).strip():
        raise ValueError("must be a path, or 'off'")
    return None if value is False or str(value).strip() == "off" else Path(str(value)).expanduser()


def _path(value: Any) -> Path:
    if isinstance(value, bool) or not str(value).strip():
        raise ValueError("must name a file")
    return Path(str(value)).expanduser()


def _folder(value: Any) -> Path:
    path = Path(value).expanduser()
    if not path.is_dir():
        raise ValueError("is not a folder")
    return path


OPTIONS: tuple[Option, ...] = (
    Option(
        "model", "Model under edit: 'pocket', 'pocket-t5', a directory, or a hub name", _text, "pocket", metavar="NAME"
    ),
    Option("revision", "Revision of a model from the hub", _text, metavar="REV"),
    Option(
        "methods",
        "Editing methods, separated by commas, or 'default' or 'all'",
        _names,
        ("default",),
        "args",
        "NAMES",
    ),
    Option(
        "candidate",
        "Folder of a model that was edited elsewhere, or of `editguard release`: suites ask it, no method is applied, "
        "and --editguard-model is its base",
        _folder,
        metavar="DIR",
    ),
    Option("device", "Device: auto (a GPU when there is one), cpu, cuda, cuda:N, mps", _device, "auto"),
    Option("device_map", DEVICE_MAP_HELP[:1].upper() + DEVICE_MAP_HELP[1:], read_device_map, metavar="MAP", table=True),
    Option(
        "dtype",
        "Number type of the weights: auto, float32, bfloat16, float16",
        _choice("auto", "float32", "bfloat16", "float16"),
        "auto",
    ),
    Option(
        "threads",
        "Threads of each process on the CPU; by default torch's own number, shared among the workers of pytest-xdist",
        _whole(1),
        ini="int",
        metavar="N",
    ),
    Option("seed", "Seed of everything random in an edit", _whole(0), 0, "int", "N"),
    Option("batch_size", "Prompts answered at once", _whole(1), 32, "int", "N"),
    Option(
        "case_limit",
        "Use only the first N cases of every declared edit; 0 uses all of them",
        _whole(0),
        0,
        "int",
        "N",
    ),
    Option(
        "chat_template",
        "Put prompts into the model's chat template: auto, on, off; the same for edits and probes",
        _choice("auto", "on", "off"),
        "auto",
    ),
    Option("offline", "Never ask the network for a model", _switch, False, "bool"),
    Option(
        "baseline",
        "What to do with baselines: check, create (write the missing), update (write what ran), prune (remove "
        "the orphans), off",
        _choice(*BASELINE_MODES),
        "check",
    ),
    Option("baseline_dir", "Folder of the baselines, relative to the root directory", Path, Path("baselines")),
    Option("reason", "Why these baselines are accepted; kept beside them", str, "", metavar="TEXT"),
    Option(
        "history",
        "SQLite database to which every run with tests of edits is added, relative to the root directory; or 'off'",
        _path_or_off,
        HISTORY_FILE,
        metavar="FILE",
    ),
    Option(
        "journal",
        "Folder, relative to the root directory, in which every run notes the groups of tests that have finished; or "
        "'off'",
        _path_or_off,
        JOURNAL_FOLDER,
        metavar="DIR",
    ),
    Option(
        "resume",
        "Report groups of tests from the journals of earlier runs where nothing has changed that their results "
        "depend on, instead of running them",
        _switch,
        False,
        "bool",
    ),
    Option(
        "html",
        "File to which the run is written as one page of HTML, relative to the root directory",
        _path,
        metavar="FILE",
    ),
    Option("cache_dir", "Folder for prepared data, by default the user's cache folder", Path, metavar="DIR"),
    Option(
        "corpus",
        "Text file, one document per line, from which methods estimate the statistics of a model that brings "
        "no text of its own",
        _file,
        metavar="FILE",
    ),
    Option(
        "training",
        "Edit cases, one JSON object per line, on which methods train their editors for a model that brings none of "
        "its own; none of their subjects may be edited by a suite",
        _file,
        metavar="FILE",
    ),
    Option(
        "undecided",
        "Whether a check that can tell neither 'held' nor 'regressed' passes: pass, fail",
        _choice("pass", "fail"),
        "pass",
    ),
    Option(
        "alpha",
        "Chance of a false regression over the whole run",
        _fraction(zero=False),
        0.05,
        "float",
        "P",
    ),
    Option(
        "minimum_effect",
        "Smallest drop, as a fraction, that counts as a regression",
        _fraction(zero=True),
        0.05,
        "float",
        "X",
    ),
    Option(
        "gate",
        "Policy that the run as a whole is held to: a TOML file, or the table [tool.editguard.gate]",
        _gate,
        metavar="FILE",
        table=True,
    ),
    Option(
        "blame",
        "Seconds that a run may spend on finding which edits make its failed tests fail; 0 looks for none",
        _whole(0),
        60,
        "int",
        "SECONDS",
    ),
    Option(
        "signals",
        "Whether cheap signs of collapse are read after every edit of a sequence: on, off",
        _switch,
        True,
    ),
    Option(
        "github",
        "Whether to write a job summary and annotations for GitHub: auto (on a runner of GitHub Actions), on, off",
        _choice("auto", "on", "off"),
        "auto",
    ),
    Option(
        "junit_properties",
        "Whether measurements and verdicts are properties of test cases in JUnit reports, which some readers reject: "
        "on, off",
        _switch,
        True,
    ),
    Option(
        "aa",
        "Ask every model again that a baseline is checked for, in other batches, order and threads and under an edit "
        "of nothing, and show by how much that alone moves each check",
        _switch,
        False,
        "bool",
    ),
    Option("trust_remote_code", "Run code that comes with a model from the hub", _switch, False, "bool"),
)


@dataclass(frozen=True)
class Configuration:
    """What the run was asked for; plain values, one field per row of `OPTIONS`."""

    model: str
    revision: str | None
    methods: tuple[str, ...]
    candidate: Path | None
    device: str
    device_map: DeviceMap | None
    dtype: str
    threads: int | None
    """None where torch decides."""
    seed: int
    batch_size: int
    case_limit: int
    chat_template: str
    offline: bool
    baseline: str
    baseline_dir: Path
    reason: str
    history: Path | None
    """None where no history is kept."""
    journal: Path | None
    """None where no journal is kept."""
    resume: bool
    html: Path | None
    cache_dir: Path | None
    corpus: Path | None
    training: Path | None
    undecided: str
    alpha: float
    minimum_effect: float
    gate: Mapping[str, Any] | Path | None
    blame: int
    signals: bool
    github: str
    junit_properties: bool
    aa: bool
    trust_remote_code: bool
    demonstrations: Path | None
    settings: Mapping[str, Mapping[str, Any]]
    """Settings of methods from `[tool.editguard.methods.<name>]`."""
    given: tuple[str, ...]
    """Names of the settings that the user gave, in the table's order; empty in an unrelated run."""

    @property
    def header(self) -> str:
        """The configuration in one line: what matters always, and what was given."""
        methods = self.methods if self.candidate is None else (CANDIDATE,)
        shown = {"model": self.model, "methods": ",".join(methods), "baseline": self.baseline}
        for name in self.given:
            if name in ("settings", "demonstrations", "methods"):
                continue
            shown[name] = _shown(getattr(self, name))
        return "editguard: " + ", ".join(f"{name.replace('_', '-')} {value}" for name, value in shown.items())


def model_name(configuration: Configuration) -> str:
    """The model's name in baseline files: of a local directory its last part, the same on every machine."""
    path = Path(configuration.model).expanduser()
    return path.resolve().name if path.is_dir() else configuration.model


def policy(configuration: Configuration) -> Policy | None:
    """The policy of the gate, if there is one.

    Raises: ConfigurationError: its file cannot be read, or is no policy.
    """
    given = configuration.gate
    if given is None:
        return None
    from editguard.comparison.policy import read_policy

    if isinstance(given, Mapping):
        return read_policy(given, "[tool.editguard.gate]")
    import tomllib

    try:
        return read_policy(tomllib.loads(given.read_text(encoding="utf-8")), str(given))
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigurationError(f"the gate's policy {given} cannot be read: {failure}.") from None
    except tomllib.TOMLDecodeError as problem:
        raise ConfigurationError(f"the gate's policy {given} is not valid TOML: {problem}.") from None


def check_fates(fates: Sequence[str]) -> None:
    """Look whether what the gate's policy asks after can happen.

    Raises: ConfigurationError: it cannot.
    """
    if not fates:
        return
    from editguard.release.survival import known_fate

    for part in (part for fate in fates for part in fate.split(" after ")):
        try:
            known_fate(part.partition("(")[0])
        except ConfigurationError as wrong:
            raise ConfigurationError(f"the gate's policy, survival: {wrong}") from None


def register(parser: pytest.Parser) -> None:
    """Add the flags and ini keys of the table to pytest's parser."""
    group = parser.getgroup("editguard", "regression tests for knowledge edits")
    for option in OPTIONS:
        if option.ini == "bool":
            group.addoption(option.flag, dest=option.dest, action="store_const", const="true", help=option.help)
        else:
            group.addoption(
                option.flag,
                dest=option.dest,
                metavar=option.metavar or option.name.upper().replace("_", "-"),
                help=f"{option.help} (default: {_shown(option.default)})",
            )
        parser.addini(option.dest, f"{option.help}; see {option.flag}", type=option.ini, default=None)


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "none"
    if isinstance(value, Mapping):
        return f"of {len(value)} parts"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def read(config: pytest.Config) -> Configuration:
    """Return the checked configuration of the run.

    Raises: ConfigurationError: a value cannot be used; names the flag or key it came from.
    """
    table = _project_table(config.rootpath)
    values: dict[str, Any] = {}
    given = []
    for option in OPTIONS:
        source, value = _look_up(config, table, option)
        if source is None:
            values[option.name] = option.default
            continue
        given.append(option.name)
        try:
            values[option.name] = option.read(value)
        except ValueError as problem:
            raise ConfigurationError(f"{source} {problem}; it is {_shown(value)!r}.") from None
    refuse_both(values["device"], values["device_map"], options=("--editguard-device", "--editguard-device-map"))
    values["baseline_dir"] = config.rootpath / values["baseline_dir"]
    if values["baseline_dir"].exists() and not values["baseline_dir"].is_dir():
        raise ConfigurationError(f"--editguard-baseline-dir is a folder; {values['baseline_dir']} is something else.")
    if values["history"] is not None:
        values["history"] = config.rootpath / values["history"]
        if values["history"].is_dir():
            raise ConfigurationError(f"--editguard-history is a file or 'off'; {values['history']} is a folder.")
    if values["journal"] is not None:
        values["journal"] = config.rootpath / values["journal"]
        if values["journal"].exists() and not values["journal"].is_dir():
            raise ConfigurationError(f"--editguard-journal is a folder or 'off'; {values['journal']} is a file.")
    elif values["resume"]:
        raise ConfigurationError("--editguard-resume takes results from journals, and --editguard-journal is 'off'.")
    if values["html"] is not None:
        values["html"] = config.rootpath / values["html"]
        if values["html"].is_dir():
            raise ConfigurationError(f"--editguard-html is a file; {values['html']} is a folder.")
        refuse_unwritable(values["html"].parent, error=ConfigurationError)
    demonstrations = table.get("demonstrations")
    if demonstrations is not None:
        given.append("demonstrations")
        demonstrations = config.rootpath / str(demonstrations)
        if not demonstrations.is_file():
            raise ConfigurationError(f"[tool.editguard] demonstrations is not a file; it is {str(demonstrations)!r}.")
    settings = _method_tables(table.get("methods"))
    if settings:
        given.append("settings")
    return Configuration(**values, demonstrations=demonstrations, settings=settings, given=tuple(given))


def _look_up(config: pytest.Config, table: Mapping[str, Any], option: Option) -> tuple[str | None, Any]:
    """Where the option was given, in words, and the raw value; (None, None) when nowhere."""
    value = config.getoption(option.dest)
    if value is not None:
        return option.flag, value
    try:
        value = config.getini(option.dest)
    except (TypeError, ValueError) as problem:
        raise ConfigurationError(f"the ini key {option.dest} cannot be read: {problem}.") from None
    if value is not None:
        return f"the ini key {option.dest}", value
    if option.name in table and (option.table or not isinstance(table[option.name], Mapping)):
        return f"[tool.editguard] {option.name}", table[option.name]
    return None, None


def _project_table(root: Path) -> Mapping[str, Any]:
    """The `[tool.editguard]` table of the root directory's pyproject.toml, with underscores in its keys."""
    path = root / "pyproject.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if "tool.editguard" not in text:
        return {}
    import tomllib

    try:
        table = tomllib.loads(text).get("tool", {}).get("editguard", {})
    except tomllib.TOMLDecodeError as problem:
        raise ConfigurationError(f"{path} is not valid TOML: {problem}.") from None
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: [tool.editguard] is not a table.")
    table = {key.replace("-", "_"): value for key, value in table.items()}
    known = {option.name for option in OPTIONS} | {"demonstrations"}
    for key in table:
        if key not in known:
            raise ConfigurationError(f"{path}: [tool.editguard] has no key {key!r}.{closest(key, known)}")
    return table


def _method_tables(methods: Any) -> Mapping[str, Mapping[str, Any]]:
    """The tables `[tool.editguard.methods.<name>]`: settings by method."""
    if not isinstance(methods, dict):
        return {}
    for name, settings in methods.items():
        if not isinstance(settings, dict):
            raise ConfigurationError(f"[tool.editguard.methods.{name}] must be a table of settings.")
    return methods
