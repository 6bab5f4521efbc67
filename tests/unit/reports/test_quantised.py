"""The table of what quantised models lose."""

from __future__ import annotations

from pathlib import Path

import matrix
from reports import Store, quantised
from reports.support import derive
from tests.unit.reports.conftest import NOW, Run, record, versions

CELL = "qwen3-w8a8-c8/quantisation/cann-{}/{}"
PROOF = {
    "quantised_layers": 12,
    "quantised_experts": 0,
    "cache_dtype": "int8",
    "aclnnQuantMatmul": 216,
    "aclnnDynamicQuant": 216,
    "steps": 18,
}


def add(store: Store, cann: str, hardware: str, mean: float, verdict: str = "passed") -> None:
    parts = {
        f"{against}_difference_{part}": {"value": value, "unit": "nats"}
        for against in ("float", "dequantised")
        for part, value in (("mean", mean), ("max", 4 * mean), ("bound", 0.2))
    }
    changes = {"verdict": verdict, "metrics": parts, "proof": PROOF}
    cell = CELL.format(cann, hardware)
    store.add(record(cell, **changes, versions=versions(cann=cann)))


def test_a_row_has_the_worst_of_its_cells_and_where_they_passed(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    add(store, "9.1.0", "a2", 0.05)
    add(store, "9.0.0", "a2", 0.07)
    add(store, "9.1.0", "950", 0.06)
    add(store, "9.1.0", "a3", 0.9, verdict="failed")
    (row,) = quantised.rows(derive(matrix.load(), store, NOW))
    assert row.scheme == "W8A8_DYNAMIC+C8"
    assert row.layers == "12 linear layers, KV cache in int8"
    assert row.losses[0] == quantised.Loss(0.07, 0.28, 0.2)
    assert row.operators == ("aclnnDynamicQuant", "aclnnQuantMatmul")
    assert row.places == "a2 (9.0.0, 9.1.0), 950 (9.1.0)"


def test_the_command_prints_the_table(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    assert "No cell of quantised models has passed" in run("quantised", "--store", sqlite_url)[1]
    add(Store(sqlite_url), "9.1.0", "a2", 0.05)
    code, out, _ = run("quantised", "--store", sqlite_url)
    assert code == 0
    assert "Nothing here has run on a real NPU" in out
    assert "| qwen3-w8a8-c8 | modelslim | W8A8_DYNAMIC+C8 |" in out
    assert "0.0500 / 0.200 (0.2)" in out
