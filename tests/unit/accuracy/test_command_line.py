"""The command line over runs that a test makes up: verdicts, records, exit codes, bad input."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from accuracy import cli, loading, runs
from accuracy.errors import EngineError
from accuracy.gates import Position
from matrix import Cell
from reports.store import Store

CELL = "smollm2-135m/base/cann-9.1.0/a2"

Run = Callable[..., tuple[int, str, str]]


def measured(tasks: dict[str, int], reference: bool) -> dict[str, Any]:
    """What a healthy worker measures, every third answer right."""
    top = ((1, -0.1), (2, -3.0))
    position = Position(0, 4, "decode", 1, -0.1, -0.1, top, (-0.1, -3.0), 1, -0.1)
    answers = {
        task: [{"hash": f"{i:016d}", "correct": i % 3 == 0, "output": "x"} for i in range(count)]
        for task, count in tasks.items()
    }
    found = {
        "platform": {"platform": "npu", "weights_on": ["npu"]},
        "positions": json.loads(json.dumps([asdict(position)])),
        "answers": answers,
        "timings": {"import": 1.0},
    }
    return found | ({"reference": copy.deepcopy(answers)} if reference else {})


class Fake:
    """Stands for the process with the engine."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.change: Callable[[dict[str, Any]], None] = lambda found: None

    def __call__(
        self, cell: Cell, folder: Path, tasks: dict[str, int], **options: Any
    ) -> dict[str, Any]:
        self.cells.append(cell.id)
        found = measured(tasks, options["reference"])
        self.change(found)
        return found


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(runs, "measure", fake)
    return fake


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    url = f"sqlite:///{tmp_path}/records.sqlite"
    monkeypatch.setenv("ASCEND_MATRIX_STORE", url)
    return Store(url)


@pytest.fixture
def run(worker: Fake, store: Store, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line; returns exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def lose(count: int) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        right = [item for item in found["answers"]["hellaswag"] if item["correct"]]
        for item in right[:count]:
            item["correct"] = False

    return change


def test_a_run_leaves_a_record_with_every_answer(run: Run, store: Store, tmp_path: Path) -> None:
    code, out, _ = run("run", CELL, "--json", tmp_path / "out.json")
    assert code == 0
    (record,) = store.records(kind="accuracy")
    assert (record.verdict, record.evidence, len(record.samples)) == ("passed", "simulated", 220)
    assert record.metrics["hellaswag/score"].value == pytest.approx(0.34)
    assert record.metrics["hellaswag/low"].value < 0.34 < record.metrics["hellaswag/high"].value
    assert record.proof["gates"] == ["port"]
    assert json.loads((tmp_path / "out.json").read_text())["summary"]["passed"] == 1
    assert "34.0%" in out


def test_two_identical_runs_pass_with_zero_flips(run: Run, store: Store) -> None:
    assert run("run", CELL)[0] == 0
    code, _, _ = run("run", CELL, "--baseline", "latest")
    assert code == 0
    first, second = store.records(kind="accuracy")
    assert second.proof["baseline"] == first.id
    assert (second.metrics["change/lost"].value, second.metrics["change/won"].value) == (0, 0)
    code, out, _ = run("change", CELL, "--baseline", "latest")
    assert code == 0
    assert "passed" in out


def test_a_lost_score_fails(run: Run, worker: Fake, store: Store) -> None:
    run("run", CELL)
    worker.change = lose(14)
    code, out, _ = run("run", CELL, "--baseline", "latest")
    assert code == 1
    assert "14 items lost and 0 won" in out
    assert store.records()[-1].verdict == "failed"
    # A failed run does not become what is normal.
    assert run("run", CELL, "--baseline", "latest")[0] == 1
    assert run("change", CELL, "--baseline", store.records()[0].id[:8])[0] == 1


def test_few_items_are_inconclusive(run: Run) -> None:
    run("run", CELL, "--limit", "5")
    assert run("run", CELL, "--limit", "5", "--baseline", "latest")[0] == 4


def test_wrong_logprobs_fail(run: Run, worker: Fake, store: Store) -> None:
    worker.change = lambda found: found["positions"][0].update(engine=-0.2)
    code, out, _ = run("port", CELL)
    assert code == 1
    assert "port gate: largest difference" in out
    assert store.records()[-1].samples == ()


def test_a_model_that_is_not_on_an_npu_fails(run: Run, worker: Fake) -> None:
    worker.change = lambda found: found["platform"].update(platform="cpu", weights_on=["cpu"])
    code, out, _ = run("port", CELL)
    assert code == 1
    assert "did not run on an NPU" in out


def test_transformers_stand_next_to_the_engine(run: Run, worker: Fake, store: Store) -> None:
    worker.change = lose(2)
    assert run("run", CELL, "--reference", "--task", "hellaswag")[0] == 0
    (record,) = store.records()
    assert record.metrics["hellaswag/transformers/score"].value == pytest.approx(0.34)
    assert record.metrics["hellaswag/transformers/flips"].value == 2


def test_an_engine_that_dies_is_an_error_with_a_record(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> dict[str, Any]:
        raise EngineError("the engine's process ended with status -9")

    monkeypatch.setattr(runs, "measure", die)
    assert run("run", CELL)[0] == 3
    assert store.records()[-1].verdict == "error"


def test_a_request_to_end_ends_what_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def asked_to_end(*_: Any, **__: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return measured({}, reference=False)

    monkeypatch.setattr(runs, "measure", asked_to_end)
    code, _, told = run("run", CELL)
    assert code == 130
    assert "interrupted" in told
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_patterns_every_suite_runs(run: Run, worker: Fake) -> None:
    assert run("run")[0] == 0
    assert CELL in worker.cells
    assert len(worker.cells) > 1


def test_listing_runs_nothing(run: Run, worker: Fake) -> None:
    code, out, _ = run("run", "--list", "--limit", "7")
    assert code == 0
    assert "hellaswag (7 items)" in out
    assert worker.cells == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "smollm3*"), 2, "matches no cell"),
        (("run", "smollm2-135m/logprobs/*"), 5, "No suite of matrix/accuracy.yaml covers"),
        (("run", "--select", "smoky"), 2, "There is no selection 'smoky'"),
        (("run", CELL, "--task", "helaswag"), 2, "Did you mean 'hellaswag'"),
        (("run", "qwen3/base/cann-9.1.0/a2", "--task", "gsm8k"), 2, "asks the task 'gsm8k'"),
        (("run", CELL, "--baseline", "latest"), 2, "there is no baseline"),
        (("run", CELL, "--baseline", "0123456789"), 2, "is no baseline"),
        (("run", "qwen3/base/cann-9.1.0/a2", "--baseline", "latest"), 2, "answers tasks"),
        (("change", CELL), 2, "--baseline is missing"),
        (("change", CELL, "--baseline", "latest"), 2, "no run with answers is stored"),
        (("baseline", CELL), 2, "can be a baseline"),
        (("run", CELL, "--store", "nonsense"), 3, "cannot be used"),
    ],
)
def test_bad_input_is_told_and_runs_nothing(
    run: Run, worker: Fake, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, told = run(*arguments)
    assert (found, worker.cells) == (code, [])
    assert message in told


def test_the_only_run_cannot_be_its_own_baseline(run: Run) -> None:
    run("run", CELL)
    code, _, told = run("change", CELL, "--baseline", "latest")
    assert code == 2
    assert "there is no baseline" in told


def test_a_baseline_of_other_items_decides_nothing(run: Run, store: Store) -> None:
    run("run", CELL, "--task", "gsm8k")
    code, out, _ = run("run", CELL, "--task", "hellaswag", "--baseline", "latest")
    assert code == 4
    assert "answered none of these items" in out
    assert len(store.records()[-1].samples) == 100
    code, _, told = run("change", CELL, "--baseline", "latest")
    assert code == 2
    assert "answered none of these items" in told


def test_a_broken_task_file_ends_before_anything_runs(
    run: Run, worker: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (loading.FOLDER / "hellaswag.yaml").read_text()
    (tmp_path / "hellaswag.yaml").write_text(text.replace("score: acc_norm\n", ""))
    read = loading.load
    monkeypatch.setattr(loading, "load", lambda name: read(name, tmp_path))
    code, _, told = run("run", CELL)
    assert (code, worker.cells) == (2, [])
    assert "score: this key is missing" in told


def test_baselines_are_listed_with_their_scores(run: Run, store: Store) -> None:
    run("run", CELL)
    code, out, _ = run("baseline", CELL)
    assert code == 0
    assert store.records()[0].id in out
    assert "hellaswag 34.0%" in out
