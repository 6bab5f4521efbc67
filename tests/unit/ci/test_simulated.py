"""The simulated runner: every way in which a body can end, with real processes and no engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from ci import learned, plan
from ci.checkpoints import Checkpoints, Failure
from ci.environment import ROOT
from ci.errors import SimulatorError
from ci.plan import Job
from ci.runners import Result
from ci.runners.simulated import Settings, Simulated, log_tail
from matrix import Cell

from .conftest import make_cell


@dataclass
class Heard:
    """A listener that remembers."""

    notes: list[str] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, job: Job) -> None:
        pass

    def finished(self, result: Result) -> None:
        assert result.job.cell.id not in self.results
        self.results[result.job.cell.id] = result

    def of(self, cell: Cell) -> Result:
        return self.results[cell.id]


@dataclass
class Bench:
    """Runs cells with a light worker and hears what comes of them."""

    folder: Path
    imports: tuple[str, ...] = ("json",)
    jobs: int = 2
    traced: tuple[str, ...] = ()
    failures: dict[str, Failure] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def variables(self, chip: str, cann: str, devices: int) -> Mapping[str, str]:
        self.asked.append((chip, cann, devices))
        return {"FAKE_NPU": f"{chip}/{cann}"}

    def run(self, *cells: Cell) -> Heard:
        heard = Heard()
        settings = Settings(
            self.folder,
            self.variables,
            jobs=self.jobs,
            imports=self.imports,
            traced=self.traced,
            start_limit=30,
        )
        paths = {cell.model.name: self.folder for cell in cells}
        known = Checkpoints(
            {k: v for k, v in paths.items() if k not in self.failures}, self.failures
        )
        made = plan.make(cells, dict.fromkeys((cell.id for cell in cells), 1.0))
        Simulated(settings).run(made, known, heard)
        return heard

    def detached(self, cell: Cell) -> int:
        """The process that the body started outside its session."""
        return int((self.folder / f"{cell.id.replace('/', '__')}.pid").read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_run_that_learns_notes_what_ran_in_every_process(bench: Bench) -> None:
    cell = make_cell("starts_python")
    assert bench.run(cell).of(cell).ran is None
    bench.traced = ("tests/unit/ci",)
    result = bench.run(cell).of(cell)
    assert result.verdict == "passed"
    assert result.ran is not None
    entry = learned.entry(result.ran, ROOT, "0" * 40, "2026-11-21")
    ran = {name for path, name in entry.units if path == "tests/unit/ci/bodies.py"}
    assert {"starts_python", "elsewhere"} <= ran
    assert not {"passes", "fails"} & ran
    assert entry.operators == frozenset(), "nothing was on a device"


def test_a_body_that_passes(bench: Bench) -> None:
    cell = make_cell("passes")
    result = bench.run(cell).of(cell)
    assert result.verdict == "passed"
    assert result.error is None
    assert (result.proof["chip"], result.proof["seen"]) == ("Ascend910B1", "Ascend910B1/9.1.0")
    assert result.metrics["speed"] == (12.5, "tokens/s")
    assert result.metrics["peak_host_memory"][0] > 1e6
    assert result.timings["engine_start"] == 0.2
    assert result.log is not None
    assert f"hello from {cell.id}" in result.log.read_text()
    assert "commands" not in result.proof


def test_commands_stand_in_the_proof_without_folders(bench: Bench) -> None:
    cell = make_cell("serves")
    proof = bench.run(cell).of(cell).proof
    assert proof["on"] is True
    assert proof["commands"] == [f"vllm serve {cell.model.name} --log=/path/to/server.log"]


@pytest.mark.parametrize(
    ("body", "verdict", "kind", "message"),
    [
        ("fails", "failed", "GateFailed", "token 3 of prompt 1 differs"),
        ("raises", "error", "ZeroDivisionError", "nobody expected this"),
        ("proves_nothing", "failed", "NoProof", "cannot prove itself"),
        ("crashes", "error", "Crash", "SIGSEGV"),
        ("leaves", "error", "Exit", "status 7"),
        ("no_such_body", "error", "AttributeError", "no_such_body"),
    ],
)
def test_a_body_that_does_not_pass(
    bench: Bench, body: str, verdict: str, kind: str, message: str
) -> None:
    cell, other = make_cell(body), make_cell("passes")
    heard = bench.run(cell, other)
    result = heard.of(cell)
    assert (result.verdict, result.error and result.error.kind) == (verdict, kind)
    assert result.error is not None
    assert message in result.error.message
    assert heard.of(other).verdict == "passed"


def test_a_crash_leaves_its_stack_in_the_record(bench: Bench) -> None:
    cell = make_cell("crashes")
    error = bench.run(cell).of(cell).error
    assert error is not None
    assert "about to crash" in error.log_tail
    assert "in crashes" in error.log_tail, "the fault handler names the Python frame"


def test_a_body_that_hangs_is_stopped_with_all_its_processes(bench: Bench) -> None:
    cell = make_cell("hangs", time_limit=2)
    result = bench.run(cell).of(cell)
    assert result.verdict == "error"
    assert result.error is not None
    assert result.error.kind == "TimeLimit"
    assert "in hangs" in result.error.log_tail, "the log shows where it hung"
    assert not psutil.pid_exists(bench.detached(cell))


def test_processes_that_a_body_leaves_behind_are_ended(bench: Bench) -> None:
    cell = make_cell("leaves_processes")
    assert bench.run(cell).of(cell).verdict == "passed"
    assert not psutil.pid_exists(bench.detached(cell))


def test_a_worker_that_dies_costs_its_running_cells_only(bench: Bench) -> None:
    bench.jobs = 1
    killer, other = make_cell("kills_the_worker"), make_cell("passes")
    heard = bench.run(killer, other)
    error = heard.of(killer).error
    assert error is not None
    assert error.kind == "WorkerDied"
    assert heard.of(other).verdict == "passed", "a new worker took over"


def test_a_stack_that_cannot_be_imported_is_told_once(bench: Bench) -> None:
    bench.imports = ("json", "no_such_module")
    cells = [make_cell("passes", feature=name) for name in ("a", "b", "c")]
    heard = bench.run(*cells)
    assert {heard.of(cell).verdict for cell in cells} == {"error"}
    assert len([note for note in heard.notes if "no_such_module" in note]) == 1


def test_a_simulator_that_cannot_start_is_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Mapping[str, str]:
        raise SimulatorError("no such chip", "misspelt", "see cannsim info")

    monkeypatch.setattr(bench, "variables", broken)
    cells = [make_cell("passes", feature=name) for name in ("a", "b")]
    heard = bench.run(*cells)
    assert {heard.of(cell).verdict for cell in cells} == {"error"}
    assert len(heard.notes) == 1


def test_each_environment_has_a_worker_of_its_own(bench: Bench) -> None:
    cells = [make_cell("passes", cann=cann) for cann in ("8.5.0", "9.1.0")]
    cells.append(make_cell("passes", feature="two-cards", cards=4))
    heard = bench.run(*cells)
    seen = {heard.of(cell).proof["seen"] for cell in cells}
    assert seen == {"Ascend910B1/8.5.0", "Ascend910B1/9.1.0"}
    assert sorted(bench.asked) == [("Ascend910B1", "8.5.0", 2), ("Ascend910B1", "9.1.0", 4)]


def test_only_cells_in_float32_get_attention_in_float32(bench: Bench) -> None:
    exact = make_cell("passes", feature="exact")
    half = make_cell("passes", feature="half", engine={"dtype": "bfloat16"})
    heard = bench.run(exact, half)
    for cell, extensions in ((exact, "float32-attention"), (half, "none")):
        proof = heard.of(cell).proof
        assert proof["extensions"] == proof["told"] == extensions


def test_a_missing_checkpoint_costs_the_cells_of_its_model(bench: Bench) -> None:
    bench.failures = {"broken": Failure("the GGUF is damaged", 2)}
    cell, other = make_cell("passes", model="broken"), make_cell("passes")
    heard = bench.run(cell, other)
    error = heard.of(cell).error
    assert error is not None
    assert (error.kind, error.message) == ("CheckpointError", "the GGUF is damaged")
    assert heard.of(other).verdict == "passed"


INTERRUPTED = """
import sys
from pathlib import Path
from tests.unit.ci.conftest import make_cell
from tests.unit.ci.test_simulated import Bench

try:
    Bench(Path(sys.argv[1])).run(make_cell("waits"))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_ends_every_process(bench: Bench, number: signal.Signals) -> None:
    cell = make_cell("waits")
    command = [sys.executable, "-c", INTERRUPTED, str(bench.folder)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as runner:
        pid_file = bench.folder / f"{cell.id.replace('/', '__')}.pid"
        eventually(pid_file.is_file)
        below = psutil.Process(runner.pid).children(recursive=True)
        runner.send_signal(number)
        assert runner.wait(timeout=30) in (130, -signal.SIGKILL)
    eventually(lambda: not any(p.is_running() for p in below))
    eventually(lambda: not psutil.pid_exists(bench.detached(cell)))


def eventually(condition: object, seconds: float = 30.0) -> None:
    """Waits for a condition; fails when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_stray_processes() -> Iterator[None]:
    """No test may leave a process behind."""
    yield
    eventually(lambda: not psutil.Process().children(recursive=True))


def test_the_tail_of_a_log_starts_at_a_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first line\nsecond line\nthird line\n")
    assert log_tail(log, 20) == "third line\n"
    assert log_tail(log, 100).startswith("first")
    assert log_tail(tmp_path / "none") == ""
