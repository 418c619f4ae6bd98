"""Where in a suite something was declared: file and line for a message."""

from __future__ import annotations

import ast
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest


def shown(path: Path, root: Path, line: int | None) -> str:
    """`path` as the user would type it, with the line where one is known."""
    try:
        name = str(path.relative_to(root))
    except ValueError:
        name = os.path.relpath(path, root)
    return f"{name}:{line}" if line else name


def of_mark(node: Any, mark: str, root: Path) -> str:
    """File and line of the mark named `mark` that `node` (a module, class or function) carries."""
    owner = getattr(node, "obj", None)
    qualified = None if isinstance(node, pytest.Module) else getattr(owner, "__qualname__", None)
    return shown(node.path, root, _mark_lines(str(node.path)).get((qualified, mark)))


def of_function(node: pytest.Item, root: Path) -> str:
    """File and line of a test function."""
    code = getattr(getattr(node, "obj", None), "__code__", None)
    return shown(node.path, root, getattr(code, "co_firstlineno", None))


def of_error(collector: pytest.Collector | pytest.Item, error: pytest.ExceptionInfo[BaseException]) -> str:
    """File and line of the suite's own statement from which an error rose: the innermost one in its file."""
    root = collector.config.rootpath
    inside = [entry for entry in error.traceback if Path(str(entry.path)) == collector.path]
    if not inside:
        ours = Path(__file__).parents[1]
        inside = [entry for entry in error.traceback if _below(entry.path, root) and not _below(entry.path, ours)]
    if not inside:
        return shown(collector.path, root, None)
    return shown(Path(str(inside[-1].path)), root, inside[-1].lineno + 1)


def _below(path: Path | str, folder: Path) -> bool:
    return Path(str(path)).is_relative_to(folder)


@lru_cache(maxsize=64)
def _mark_lines(path: str) -> dict[tuple[str | None, str], int]:
    """Line of every mark in a file, by (qualified name of its function or class, mark); None is the module."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    lines: dict[tuple[str | None, str], int] = {}

    def note(owner: str | None, expression: ast.expr) -> None:
        for part in ast.walk(expression):
            name = part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", None)
            if isinstance(part, (ast.Attribute, ast.Name)) and name:
                lines.setdefault((owner, name), part.lineno)

    def visit(body: list[ast.stmt], owner: str | None, prefix: str) -> None:
        for statement in body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                if any(getattr(target, "id", None) == "pytestmark" for target in targets):
                    note(owner, statement.value)
            elif isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                name = prefix + statement.name
                for decorator in statement.decorator_list:
                    note(name, decorator)
                if isinstance(statement, ast.ClassDef):
                    visit(statement.body, name, name + ".")

    visit(tree.body, None, "")
    return lines


def add_section(report: pytest.TestReport, title: str, text: str) -> None:
    """Put a text behind a failure, under a title of its own."""
    shown: Any = report.longrepr
    if hasattr(shown, "addsection"):
        shown.addsection(title, text)
    else:
        report.sections.append((title, text))
