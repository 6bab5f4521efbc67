"""Each state follows from the records, the rules and the policy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import matrix
from reports import Policy, status
from reports.statuses import MEANINGS, SYMBOLS
from tests.unit.reports.conftest import CELL, NOW, record, versions

RELEASE = matrix.load().release
CELLS = {cell.id: cell for cell in matrix.expand(matrix.load())}
POLICY = Policy.of(RELEASE)


@pytest.mark.parametrize("verdict", ["passed", "failed", "error", "inconclusive"])
def test_newest_record_decides(verdict: str) -> None:
    older = "failed" if verdict == "passed" else "passed"
    records = [
        record(verdict=verdict, started="2026-11-21T10:00:00Z"),
        record(verdict=older, started="2026-11-20T10:00:00Z"),
    ]
    for order in (records, records[::-1]):
        found = status(CELLS[CELL], order, NOW, POLICY)
        assert found.state == verdict
        assert found.record == records[0]
        assert found.evidence == "simulated"


def test_failure_says_why() -> None:
    failed = record(verdict="failed", error={"class": "GateFailed", "message": "token 7"})
    assert status(CELLS[CELL], [failed], NOW, POLICY).reason == "token 7"


def test_never_run() -> None:
    others = [record("llama/base/cann-9.1.0/a2"), record(kind="accuracy")]
    found = status(CELLS[CELL], others, NOW, POLICY)
    assert (found.state, found.record, found.evidence) == ("never-run", None, None)


@pytest.mark.parametrize(("days", "state"), [(13.9, "passed"), (14.1, "stale")])
def test_age(days: float, state: str) -> None:
    old = record(started=(NOW - timedelta(days=days)).isoformat())
    assert status(CELLS[CELL], [old], NOW, POLICY).state == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"vllm": "0.31.0"}, "stale"),
        ({"torch_npu": "2.12.0"}, "stale"),
        ({"plugin": "0.0.9"}, "stale"),
        ({"vllm": "0.32.0"}, "passed"),
        ({"vllm": None}, "passed"),
        ({"python": "3.11.9"}, "passed"),
    ],
)
def test_versions_of_the_release(changes: dict[str, Any], state: str) -> None:
    found = status(CELLS[CELL], [record(versions=versions(**changes))], NOW, POLICY)
    assert found.state == state
    if state == "stale":
        assert next(iter(changes)) in found.reason
        assert found.label == "◷ stale (passed)"


def test_old_failure_does_not_become_a_pass() -> None:
    old = record(verdict="failed", started="2026-01-01T00:00:00Z")
    assert status(CELLS[CELL], [old], NOW, POLICY).label == "◷ stale (failed)"


def test_rule_decides_before_records() -> None:
    cell = CELLS["qwen3-embedding/base/cann-9.1.0/a2"]
    found = status(cell, [record(cell.id)], NOW, POLICY)
    assert found.state == "unsupported"
    assert "generates no tokens" in found.reason
    assert found.label == "– n/a"


def test_simulated_pass_does_not_hide_what_hardware_showed() -> None:
    kept = versions(cannsim=None)
    failed = record(
        verdict="failed", evidence="hardware", versions=kept, started="2026-11-19T00:00:00Z"
    )
    found = status(CELLS[CELL], [failed, record()], NOW, POLICY)
    assert (found.state, found.evidence) == ("failed", "hardware")


def test_every_state_has_a_symbol_and_a_meaning() -> None:
    assert set(SYMBOLS) == set(MEANINGS)
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)
