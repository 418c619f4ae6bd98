"""The folders' order is the order of imports; it is read from the source, so that lazy imports count too."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import editguard
from editguard.models.families import FAMILIES

ROOT = Path(editguard.__file__).parent
LAYERS = {
    "edits": 1,
    "models": 2,
    "methods": 3,
    "edited": 4,
    "probes": 5,
    "measurements": 6,
    "comparison": 7,
    "blame": 8,
    "history": 8,
    "study": 8,
    "release": 8,
    "one_hop": 8,
    "report": 9,
    "pytest_plugin": 10,
    "rank_command": 10,
    "blame_command": 11,
    "trace_command": 10,
    "release_command": 10,
    "verify_command": 10,
    "train_command": 10,
    "import_command": 10,
    "one_hop_command": 10,
    "history_command": 10,
    "cli": 12,
    "__init__": 13,
}
"""A module imports from smaller numbers; modules that stand outside the path of the data have their own rule."""
FREE = {"errors", "storage", "device_map"}
"""What every layer may import; these import each other and nothing else of ours."""
BESIDE = {
    "datasets": {"edits", "probes"},
    "pocket": {"edits", "models"},
}
ALSO = {
    "methods": {"edited"},  # the type of its result
}
MODULES = sorted(ROOT.rglob("*.py"))


def layer_of(path: Path) -> str:
    """The folder below the package, or the module's name at the top."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module name that a file imports, anywhere in it, type-checking blocks left out."""
    tree = parsed(path)
    hidden = {
        id(part)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for statement in block.body
        for part in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield str(node.module), node.lineno
            if node.module == "editguard":
                yield from ((f"editguard.{alias.name}", node.lineno) for alias in node.names)


def ours(path: Path) -> Iterator[tuple[str, int]]:
    """The layers that a file imports from."""
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "editguard" and len(parts) > 1 and parts[1] != "__version__":
            yield parts[1], line


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_imports_only_from_smaller_numbers(path: Path) -> None:
    own = layer_of(path)
    for other, line in ours(path):
        if other == own or (other in FREE and own not in FREE):
            continue
        if own in FREE:
            allowed = other in FREE
        elif own in BESIDE:
            allowed = other in BESIDE[own]
        elif other in BESIDE:
            allowed = LAYERS[own] >= LAYERS["probes"] or own == "models"
        else:
            allowed = LAYERS[other] < LAYERS[own] or other in ALSO.get(own, ())
            allowed = allowed and not (own == "edited" and other == "methods")
        assert allowed, f"{path.relative_to(ROOT)}:{line} imports editguard.{other}"


def test_every_folder_has_its_place() -> None:
    folders = {layer_of(path) for path in MODULES} - {"__main__"}
    assert folders <= set(LAYERS) | set(BESIDE) | FREE


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_plugin_imports_pytest(path: Path) -> None:
    found = [line for name, line in imported(path) if name.split(".")[0] in ("pytest", "_pytest", "xdist")]
    assert not found or layer_of(path) == "pytest_plugin"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path: Path) -> None:
    tree = parsed(path)
    assert not [name for name, _ in imported(path) if name.split(".")[0] in ("pickle", "dill", "joblib")]
    loads = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "load" and getattr(node.value, "id", "") == "torch"
    ]
    assert not loads


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda path: path.name)
def test_no_method_names_an_architecture(path: Path) -> None:
    """Tables of published settings, rows of which are for one family and size, may name it; code may not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tables = {
        id(part)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Published"
        for part in ast.walk(call)
    }
    for node in ast.walk(tree):
        if id(node) in tables:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in FAMILIES, f"{path.name}:{node.lineno} names {node.value!r}"
        if isinstance(node, (ast.Attribute, ast.Name)):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            assert name not in {"c_proj", "c_fc", "fc_out", "down_proj", "dense_4h_to_h", "fc2", "transformer"}


def test_the_rule_finds_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "edited").mkdir()
    path = tmp_path / "edited" / "wrong.py"
    path.write_text("def late():\n    from editguard.methods import create\n    return create\n")
    with pytest.raises(AssertionError, match=r"imports editguard\.methods"):
        test_a_folder_imports_only_from_smaller_numbers(path)
