"""Processes with an engine that end well, die, hang or leave nothing; no engine is started."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import matrix
from accuracy import runs
from accuracy.errors import EngineError
from matrix import Cell

GOOD = """
import json, sys
spec = json.load(open(sys.argv[1]))
found = {"reference": "theirs"} if spec["reference"] else {"answers": "ours", "spec": spec}
part = "reference" if spec["reference"] else "tasks"
json.dump(found | {"timings": {part: 1}}, open(sys.argv[2], "w"))
"""


@pytest.fixture
def cell() -> Cell:
    claims = matrix.load()
    return matrix.select(claims, matrix.expand(claims), ["smollm2-135m/base/cann-9.1.0/a2"])[0]


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runs, "materialise", lambda model: tmp_path / model.name)
    monkeypatch.setattr(runs.devices, "simulated", lambda *_: {})


def measure(cell: Cell, folder: Path, program: str, **options: Any) -> dict[str, Any]:
    command = [sys.executable, "-c", program]
    return runs.measure(cell, folder, {"gsm8k": 3}, command=command, **options)


def test_a_process_gets_what_the_matrix_says(cell: Cell, tmp_path: Path) -> None:
    found = measure(cell, tmp_path, GOOD)
    assert found["spec"]["engine"] == {"dtype": "float32", "max_model_len": 1024}
    assert found["spec"]["tasks"] == {"gsm8k": 3}
    assert "reference" not in found


def test_transformers_answer_in_a_process_of_their_own(cell: Cell, tmp_path: Path) -> None:
    found = measure(cell, tmp_path, GOOD, reference=True)
    assert (found["answers"], found["reference"]) == ("ours", "theirs")
    assert found["timings"] == {"tasks": 1, "reference": 1}


def test_a_process_that_dies_is_told_with_its_last_lines(cell: Cell, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"status 7:\nout of everything") as caught:
        measure(cell, tmp_path, "print('out of everything', flush=True); raise SystemExit(7)")
    assert caught.value.exit_code == 3
    assert "out of everything" in runs.tail(tmp_path / "log.txt")


def test_a_process_that_leaves_nothing_is_an_error(cell: Cell, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="status 0"):
        measure(cell, tmp_path, "pass")


def test_a_process_that_hangs_is_ended(cell: Cell, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"was ended after 0\.2 s"):
        measure(cell, tmp_path, "import time; time.sleep(60)", time_limit=0.2)


def test_what_was_measured_earlier_is_not_taken_for_new(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text(json.dumps({"timings": {}}))
    with pytest.raises(EngineError, match="status 0"):
        measure(cell, tmp_path, "pass")
