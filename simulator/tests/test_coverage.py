"""The measure of coverage: what agrees is above a floor, what does not is a row that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("expecttest", reason="torch's operator database imports it")
PROGRAM = Path(__file__).with_name("coverage.py")


def measure(directory: Path, pattern: str, *options: str) -> tuple[int, dict[str, dict]]:
    report = directory / "rows.json"
    command = [sys.executable, str(PROGRAM), "--operators", pattern, "--json", str(report)]
    status = subprocess.run([*command, *options], capture_output=True, timeout=300).returncode
    return status, {row["name"]: row for row in json.loads(report.read_text())}


def test_what_agrees_is_above_the_floor(tmp_path: Path) -> None:
    status, rows = measure(tmp_path, "a[a-n]*", "--floor", "95")
    assert status == 0
    assert rows["add"]["verdict"] == "agrees"
    assert rows["add"]["dtypes"]["float16"]["launches"] == ["aclnnAdd"]


def test_what_torch_npu_hands_back_is_apart(tmp_path: Path) -> None:
    _, rows = measure(tmp_path, "digamma")
    assert rows["digamma"]["verdict"] == "cpu"
    assert rows["digamma"]["why"] == "aten::digamma.out"


def test_another_result_is_told_and_fails_the_floor(tmp_path: Path) -> None:
    """torch-npu makes float32 of float64, so this operator cannot give the CPU's result."""
    status, rows = measure(tmp_path, "double", "--floor", "95")
    assert status == 1
    assert rows["double"]["verdict"] == "differs"
    assert "expected torch.float64" in rows["double"]["why"]


def test_an_unknown_name_selects_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--operators", "no-such"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "no operator of torch's database is called 'no-such'" in ended.stderr
