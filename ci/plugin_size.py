"""Keeps the plugin small: no long modules, no long functions, no growth without notice."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from ci.environment import ROOT

MAX_MODULE_LINES = 600
"""The longest module of the plugin."""

MAX_FUNCTION_LINES = 80
"""The longest function of the plugin, docstring included: about a screen."""


def problems(folder: Path) -> Iterator[str]:
    """Every module and function of a package that is longer than allowed.

    Args:
        folder: The package's folder.
    """
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        lines = len(text.splitlines())
        if lines > MAX_MODULE_LINES:
            yield f"{path}: {lines} lines; a module has at most {MAX_MODULE_LINES}: split it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    yield (
                        f"{path}:{node.lineno}: {node.name} has {length} lines; "
                        f"a function has at most {MAX_FUNCTION_LINES}"
                    )


def main() -> int:
    """Prints the problems of the plugin; returns 1 if there are any."""
    folder = ROOT / "plugin" / "vllm_ascend"
    found = list(problems(folder))
    for problem in found:
        print(problem)
    modules = list(folder.rglob("*.py"))
    total = sum(len(path.read_text().splitlines()) for path in modules)
    print(f"plugin: {total} lines in {len(modules)} modules, {len(found)} too long")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
