"""Settings that a process reads once: each program (programs.py) runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cannsim import counters

ROOT = Path(__file__).parents[2]
CANNSIM = str(Path(sys.executable).with_name("cannsim"))
ASYNCHRONOUS = {"TASK_QUEUE_ENABLE": "1"}
LIMIT = 120


class Process:
    """Programs of programs.py, started in one process under ``options`` of `cannsim run`."""

    def __init__(self, programs: str, options: str = "", **variables: str) -> None:
        removed = ("CANNSIM_", "ASCEND_", "TASK_QUEUE")
        base = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
        module = [sys.executable, "-m", "simulator.tests.programs"]
        self.process = subprocess.Popen(
            [CANNSIM, "run", *options.split(), "--", *module, *programs.split()],
            cwd=ROOT,
            env=base | ASYNCHRONOUS | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> dict[str, Any]:
        out, errors = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0, errors
        line = next(line for line in out.splitlines() if line.startswith("RESULT "))
        return json.loads(line.removeprefix("RESULT "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two processes that count leave their counters: first and second."""
    return tmp_path_factory.mktemp("counters")


@pytest.fixture(scope="module")
def processes(folder: Path) -> Iterator[dict[str, Process]]:
    """All of them, two at a time: most of each is the import of torch. `failure` comes last in its
    process: torch-npu does not go on after it.
    """
    plans: dict[str, Callable[[], Process]] = {
        "old": lambda: Process(
            "identity failure",
            "--cann 8.5.0 --devices 3",
            ASCEND_RT_VISIBLE_DEVICES="2,0",
            TASK_QUEUE_ENABLE="2",
        ),
        "new": lambda: Process(
            "identity attention", "--cann 9.1.0 --devices 5 --extension float32-attention"
        ),
        "small": lambda: Process("memory failure", f"--device-memory {256 << 20}"),
        "first": lambda: Process("work", f"--counters {folder / 'first'}"),
        "second": lambda: Process("work", f"--counters {folder / 'second'}"),
        "inline": lambda: Process("work", CANNSIM_INLINE="1"),
        "warm": lambda: Process("fork"),
    }
    started: list[Process] = []
    found: dict[str, Process] = {}
    for name, start in plans.items():
        if len(started) >= 2:
            started[-2].process.wait(LIMIT)
        found[name] = start()
        started.append(found[name])
    yield found
    for process in started:
        process.process.kill()


Results = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def result(processes: dict[str, Process]) -> Results:
    """What a program found in a process; fails with the process's errors where it failed."""
    known: dict[str, dict[str, Any]] = {}

    def of(process: str, program: str) -> dict[str, Any]:
        if process not in known:
            known[process] = processes[process].result()
        return known[process][program]

    return of


def test_a_cann_version_has_its_functions_and_lacks_the_others(result: Results) -> None:
    old, new = result("old", "identity"), result("new", "identity")
    assert old["functions"] == ["V2", "V3", "V4"]
    assert not old["plan"]
    assert new["functions"] == ["V2", "V3", "V4", "V5"]
    assert new["plan"]


def test_torch_npu_finds_the_cann_version(result: Results) -> None:
    assert result("old", "identity")["cann"] == "8.5.0"
    assert result("new", "identity")["cann"] == "9.1.0"


def test_the_number_of_devices_is_a_setting(result: Results) -> None:
    assert result("new", "identity")["devices"] == 5


def test_visible_devices_are_those_of_the_variable(result: Results) -> None:
    assert result("old", "identity")["devices"] == 2


def test_a_full_device_refuses_and_goes_on(result: Results) -> None:
    found = result("small", "memory")
    assert found["total"] == 256 << 20
    assert found["refused"] == "OutOfMemoryError"
    assert "out of memory" in found["message"].lower()
    assert found["full"] < 128 << 20
    assert found["found"] == 1
    assert found["given_back"]


def test_the_same_program_counts_the_same(result: Results, folder: Path) -> None:
    assert result("first", "work") == result("second", "work")
    first, second = (counters.load(folder / name) for name in ("first", "second"))
    for made in (first, second):
        made.pop("pid")
    assert first == second
    assert first["chip"] == "Ascend910B1"
    softmax = first["launches"]["aclnnSoftmax"]
    assert (softmax["count"], softmax["bytes"]) == (1, 2 * 32 * 32 * 4)
    assert first["events"]["recorded"] >= 1
    assert first["synchronizations"]["event"] >= 1
    assert first["memory"][0]["peak"] > 0


def test_running_inline_gives_the_same_results(result: Results) -> None:
    assert result("inline", "work") == result("first", "work")


@pytest.mark.parametrize("process", ["small", "old"], ids=["task_queue_1", "task_queue_2"])
def test_an_operators_error_is_told_at_the_wait(process: str, result: Results) -> None:
    found = result(process, "failure")
    assert found["told"] == "at the wait"
    assert "[cannsim]" in found["message"]
    assert "index out of range" in found["message"]


def test_children_of_a_warm_parent_use_the_device(result: Results) -> None:
    assert result("warm", "fork")["children"] == [[40.0, 0], 0, [80.0, 1], 0]


def test_the_extension_lets_attention_take_float32(result: Results) -> None:
    found = result("new", "attention")
    assert found["dtype"] == "torch.float32"
    assert found["error"] < 1e-5
