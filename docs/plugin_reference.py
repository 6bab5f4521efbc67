"""Writes what the plugin puts in vLLM's place, out of its own registries, as a Markdown page.

Usage: python plugin_reference.py FILE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import vllm_ascend
from vllm_ascend.overrides import OVERRIDES, Override
from vllm_ascend.shims import SHIMS

MEANINGS = {
    "custom-op": "Classes of layers, replaced by name",
    "layer": "Other classes, replaced by name",
    "ir-op": "Providers of operators of vLLM's own representation",
    "torch-op": "Operators that vLLM's compiled library would define",
    "aten-op": "Operators of torch, which torch-npu has otherwise",
    "triton-kernel": "Triton kernels, replaced by name",
    "attention-backend": "Attention backends",
    "lora": "What applies a batch's adapters",
    "sleep": "Backends of sleep mode",
    "linear-kernel": "Products behind vLLM's quantised layers",
    "quantization": "Readers of quantised checkpoints",
    "loader": "Readers of checkpoints",
}
"""What the rows of each kind are, in the order of the page."""

HEAD = ("vLLM's", "here", "launches", "modules")


def page() -> str:
    """The page: size, then a table of rows for each kind, then the attributes that are replaced."""
    unknown = {row.kind for row in OVERRIDES} - set(MEANINGS)
    if unknown:
        raise SystemExit(f"overrides of kinds that the page has no heading for: {sorted(unknown)}")
    order = {kind: place for place, kind in enumerate(MEANINGS)}
    rows = sorted(OVERRIDES, key=lambda row: order[row.kind])
    parts = [_size()]
    for kind, found in groupby(rows, lambda row: row.kind):
        parts += [f"## {MEANINGS[kind]}", _table(HEAD, _cells(found))]
    shims = ((_code(row.target), row.reason, row.removed_by) for row in SHIMS)
    parts += ["## Attributes that are replaced", _table(("attribute", "why", "gone with"), shims)]
    return "\n\n".join(parts) + "\n"


def _size() -> str:
    modules = sorted(Path(vllm_ascend.__file__).parent.rglob("*.py"))
    lines = sum(len(path.read_text().splitlines()) for path in modules)
    return (
        f"The plugin has {lines:,} lines of Python in {len(modules)} modules, {len(OVERRIDES)} "
        f"registered overrides and {len(SHIMS)} replaced attributes. A test calls each and sees "
        "that it is reached, and that its operator is launched."
    )


def _cells(rows: Iterator[Override]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        (module, name), (ours, own) = (
            path.rsplit(".", 1) for path in (row.target, row.implementation)
        )
        names = f" ({', '.join(row.names)})" if row.names else ""
        where = f"{_code(module)}, {_code(ours)}"
        yield f"{_code(name)}{names}", _code(own), _code(row.operator), where


def _code(name: str) -> str:
    return f"`{name}`"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell or '–' for cell in line)} |" for line in lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
