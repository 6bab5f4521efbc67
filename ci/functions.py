"""The functions of a Python file, each with a hash that comments and layout do not change. Pure."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

REST = "<module>"
"""The name for what a file does when it is imported: all but the bodies of its functions."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function of a module, or a method; those inside of it are part of it.

    Attributes:
        name: as in ``Worker.load_model``.
        first: its first line, decorators included.
        last: its last line.
        hash: of what it says.
    """

    name: str
    first: int
    last: int
    hash: str


def functions(source: str) -> dict[str, Function]:
    """The functions of a file by name, and what is left as `REST`.

    Of functions with the same name (overloads, or branches of a condition) all count as one.

    Raises:
        SyntaxError: It is no Python.
    """
    tree = ast.parse(source)
    found: dict[str, list[tuple[Definition, str]]] = {}
    for name, node in _definitions(tree, ""):
        found.setdefault(name, []).append((node, ast.dump(node)))
    for nodes in found.values():
        for node, _ in nodes:
            node.body = []
    whole = {
        name: Function(
            name,
            min(_first(node) for node, _ in nodes),
            max(node.end_lineno or node.lineno for node, _ in nodes),
            _hash(text for _, text in nodes),
        )
        for name, nodes in found.items()
    }
    end = len(source.splitlines()) or 1
    return {**whole, REST: Function(REST, 1, end, _hash([ast.dump(tree)]))}


def hashes(source: str) -> dict[str, str]:
    """The hash of each function of a file, and of what is left."""
    return {name: function.hash for name, function in functions(source).items()}


def executed(source: str, lines: Iterable[int]) -> set[str]:
    """The functions of which a line of the body ran; `REST` wherever any line of the file did."""
    ran = set(lines)
    found = {REST} if ran else set()
    tree = ast.parse(source)
    for name, node in _definitions(tree, ""):
        start, end = node.body[0].lineno, node.end_lineno or node.lineno
        if any(start <= line <= end for line in ran):
            found.add(name)
    return found


def _definitions(node: ast.AST, prefix: str) -> list[tuple[str, Definition]]:
    """Functions and methods, also under conditions; not those inside other functions."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            found.append((f"{prefix}{child.name}", child))
        elif isinstance(child, ast.ClassDef):
            found += _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            found += _definitions(child, prefix)
    return found


def _first(node: Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
