"""Starts the processes with the engines of two trees, and asks them to measure."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from matrix import Cell, devices
from perf.errors import EngineError
from perf.trees import Tree
from perf.worker import Spec
from reports import text

ROOT = Path(__file__).resolve().parent.parent
"""The repository, from which the benchmark itself comes on both sides."""

WORKER = (sys.executable, "-m", "perf.worker")
"""The process with the engine; takes a spec file."""

_LINE = 1000  # bytes of a line, of which more are never read than of the end of a log

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Threads that spin while they wait take the processor from the other side's.
    "OMP_WAIT_POLICY": "passive",
    "PYTHONHASHSEED": "0",
}
"""Variables with which nothing is sent or fetched, and nothing is drawn by chance."""


class Worker:
    """The process of one tree; a context manager that ends it.

    Args:
        cell: the cell.
        tree: whose plugin and simulator it runs.
        spec: what it runs.
        folder: for the spec and the log.
        time_limit: seconds that the start, or one measurement, may take.
        command: what to start, with the spec file as a further argument.
    """

    def __init__(
        self,
        cell: Cell,
        tree: Tree,
        spec: Spec,
        folder: Path,
        time_limit: float = 300,
        command: Sequence[str] = WORKER,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = f"{cell.id}, {tree.label}"
        self.log, self._limit = folder / "log.txt", time_limit
        asked = folder / "spec.json"
        asked.write_text(json.dumps(asdict(spec), indent=1))
        with self.log.open("w") as output:
            self._process = subprocess.Popen(
                [*command, str(asked)],
                cwd=ROOT,
                env=environment(cell, tree, str(spec.engine["dtype"]), spec.threads, folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(30 if error is None else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ready(self) -> dict[str, Any]:
        """Wait for the engine; return what it says of itself.

        Raises:
            EngineError: it died or hung, or the model is not on an NPU.
        """
        found = self._answer()
        if found["platform"] != "npu" or found["weights_on"] != ["npu"]:
            raise EngineError(
                f"{self.name}: the model is on {found['weights_on']}, not on an NPU.",
                "The plugin did not register itself.",
                f"Read {self.log}.",
            )
        return found

    def measure(self, batch: int) -> dict[str, Any]:
        """Return what one measurement found.

        Raises:
            EngineError: the process died or hung.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says so
            self._process.stdin.write(json.dumps({"batch": batch}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        expired = threading.Event()

        def end() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(self._limit, end)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self._process.wait()
        how = f"was ended after {self._limit:g} s" if expired.is_set() else f"ended ({status})"
        raise EngineError(
            f"{self.name}: the engine's process {how}:\n{tail(self.log, 12)}",
            "The lines above say what it could not do.",
            f"The whole log is {self.log}.",
        )


def environment(cell: Cell, tree: Tree, dtype: str, threads: int, folder: Path) -> dict[str, str]:
    """Return the variables of one tree's process.

    Raises:
        DeviceError: the tree's simulator gives no environment.
    """
    ours = {k: v for k, v in os.environ.items() if not k.startswith("CANNSIM_")}
    path = os.pathsep.join([*tree.import_path, *filter(None, [ours.get("PYTHONPATH")])])
    ours |= {"PYTHONPATH": path}
    # A simulator of its own keeps its toolkit folder apart from the installed one's.
    cache = {"XDG_CACHE_HOME": str(tree.simulator / "cache")} if tree.simulator else {}
    found = devices.simulated(
        cell.hardware.soc, cell.cann.version, dtype, environment=ours | cache, folder=folder
    )
    counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return {**ours, **found, **QUIET, **counts}


def tail(log: Path, lines: int = 40) -> str:
    """Return the last lines of a log."""
    return "\n".join(text.plain(text.tail(log, lines * _LINE)).splitlines()[-lines:])
