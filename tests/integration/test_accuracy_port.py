"""The port gate over real engines: it passes the plugin as it is, and sees faults planted in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import matrix
from accuracy import cli, runs
from accuracy.gates import Port
from tests.integration import accuracy_faults

MODEL = "llama"
"""The stand-in of the family of the real model: the same layers in a few seconds."""


def judged(fault: str, folder: Path, model: str = MODEL) -> Port:
    """Run an engine with that fault, and judge it as `python -m accuracy port` does."""
    claims = matrix.load()
    (cell,) = matrix.select(claims, matrix.expand(claims), [f"{model}/base/cann-9.1.0/a2"])
    suite = cli.suite_of(claims, cell)
    assert suite is not None
    command = [sys.executable, accuracy_faults.__file__, fault]
    return cli.judge_measured(runs.measure(cell, folder, {}, command=command), suite)


def test_the_plugin_as_it_is_passes(tmp_path: Path) -> None:
    found = judged("healthy", tmp_path)
    assert found.reasons == ()
    assert found.agreement == 1


@pytest.mark.parametrize("fault", sorted(accuracy_faults.FAULTS.keys() - {"healthy"}))
def test_a_planted_fault_is_seen(fault: str, tmp_path: Path) -> None:
    found = judged(fault, tmp_path)
    assert found.verdict == "failed"
    assert "largest difference" in found.reasons[0]
