"""Runs a cell's engine in a process of its own, over a simulated NPU; returns what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accuracy.errors import EngineError
from accuracy.worker import Spec
from matrix import Cell, devices
from matrix.checkpoints import materialise

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""

WORKER = (sys.executable, "-m", "accuracy.worker")
"""The process with the engine; takes a spec file and the file for what was measured."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Threads that spin while they wait take the processor from the simulator's own.
    "OMP_WAIT_POLICY": "passive",
}
"""Variables with which nothing is sent or fetched, and little is printed."""

LOG_TAIL = 40
"""Lines of a log that a record keeps."""


def measure(
    cell: Cell,
    folder: Path,
    tasks: dict[str, int],
    *,
    reference: bool = False,
    threads: int = 0,
    time_limit: float = 1200,
    command: Sequence[str] = WORKER,
) -> dict[str, Any]:
    """Run one cell; return what `accuracy.worker.run` measured.

    Args:
        cell: the cell; its model's checkpoint is built where it is not in the cache.
        folder: for the spec, the items, the log and what was measured.
        tasks: task to the number of its items; none for the port gate alone.
        reference: answer the tasks with transformers on the CPU too.
        threads: threads of the CPU; 0 for torch's own choice.
        time_limit: seconds after which the process is ended.
        command: what to start, with the two files as further arguments.

    Raises:
        CheckpointError: the model cannot be built.
        DeviceError: there is no simulated device.
        EngineError: the process died, hung or left nothing.
    """
    checkpoint = str(materialise(cell.model))
    spec = Spec(checkpoint, arguments(cell), str(folder / "items"), tasks, threads=threads)
    measured = _process(cell, spec, folder, time_limit, command)
    if reference and tasks:
        other = replace(spec, reference=True)
        answered = _process(cell, other, folder / "transformers", time_limit, command)
        measured["reference"] = answered["reference"]
        measured["timings"] |= answered["timings"]
    return measured


def _process(
    cell: Cell, spec: Spec, folder: Path, time_limit: float, command: Sequence[str]
) -> dict[str, Any]:
    """Run one process to its end; return what it measured."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, out, log = folder / "spec.json", folder / "measured.json", folder / "log.txt"
    asked.write_text(json.dumps(asdict(spec), indent=1))
    out.unlink(missing_ok=True)
    environment = {
        **os.environ,
        **devices.simulated(cell.hardware.soc, cell.cann.version, str(spec.engine["dtype"])),
        **QUIET,
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }
    with log.open("w") as output:
        try:
            status = subprocess.run(
                [*command, str(asked), str(out)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=time_limit,
            ).returncode
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"{cell.id}: the engine's process was ended after {time_limit:g} s.",
                "It hangs, or this machine is slower than the suite's time_limit expects.",
                f"Read {log}; matrix/accuracy.yaml has the limit.",
            ) from None
    if status or not out.is_file():
        raise EngineError(
            f"{cell.id}: the engine's process ended with status {status}:\n{tail(log, 12)}",
            "The lines above say what it could not do.",
            f"The whole log is {log}.",
        )
    measured: dict[str, Any] = json.loads(out.read_text())
    return measured


def arguments(cell: Cell) -> dict[str, Any]:
    """Return the matrix's keyword arguments for vllm.LLM: the model's, then the feature's."""
    return {
        "dtype": cell.model.dtype,
        "max_model_len": cell.model.max_model_len,
        **cell.model.engine,
        **cell.feature.engine,
    }


def tail(log: Path, lines: int = LOG_TAIL) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else ""
