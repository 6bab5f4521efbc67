"""The process that imports the stack once, and forks one guarded child for each cell.

Three kinds of process live here:

- the **worker** imports torch, vLLM and what else takes seconds, never touches a device, and then
  reads one request a line on standard input and answers one event a line on standard output;
- a **guard**, forked from the worker for each cell, holds the time limit and adopts whatever
  processes the cell leaves behind, so that it can end all of them;
- the **child**, forked from the guard, runs the body of the cell and writes its outcome.

A cell that crashes takes its child with it, and nothing else. Closing the worker's input ends all.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import psutil

CONTRACT = "tests.e2e.context"
"""The module that defines what a body takes and returns; by name, because tests import ci."""

OUTCOME = "outcome.json"
"""Written by the child: verdict, error, and what the body returned."""

STATUS = "status.json"
"""Written by the guard: how the child ended."""

HEARTBEAT_S = 2.0
"""Seconds between two signs of life of the worker."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Request:
    """One cell to run, as the runner sends it.

    Args:
        id: The cell's id.
        body: ``module.path:function``.
        contract: The module with ``CellContext`` and ``GateFailed``.
        context: Keyword arguments of ``CellContext``; paths as strings.
        variables: Environment variables of this cell, beside the worker's.
        time_limit: Seconds after which the cell is stopped.
        workdir: The folder for the outcome, the status and whatever the body writes.
        log: The file for everything that the cell's processes print.
        traced: Folders below the root of which is noted what runs; see `ci.tracing`.
    """

    id: str
    body: str
    contract: str
    context: dict[str, Any]
    variables: dict[str, str]
    time_limit: float
    workdir: str
    log: str
    traced: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------- worker


def main(arguments: Sequence[str] | None = None) -> int:
    """Imports the named modules, then serves requests until its input ends; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m ci.worker", description=__doc__)
    parser.add_argument("imports", nargs="*", help="modules to import before the first fork")
    options = parser.parse_args(arguments)
    # What libraries print must not mix with the events: standard output becomes the log.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    started = time.monotonic()
    try:
        for name in options.imports:
            importlib.import_module(name)
        _check_untouched()
    except BaseException as error:  # noqa: BLE001 - told to the runner, whatever it is
        traceback.print_exc()
        _send(events, event="broken", error=type(error).__name__, message=str(error))
        return 1
    # What is imported stays; the collector need not visit (and so copy) it in every child.
    gc.collect()
    gc.freeze()
    _send(events, event="ready", seconds=time.monotonic() - started, threads=_threads())
    _Worker(events).serve()
    return 0


def _check_untouched() -> None:
    """Raises RuntimeError if the imports initialised a device: a forked child could not use it."""
    torch = sys.modules.get("torch")
    npu = getattr(torch, "npu", None)
    if npu is not None and npu.is_initialized():
        raise RuntimeError(
            "importing the stack initialised an NPU; a device does not survive a fork. "
            "Something asks for device properties at import time: look for torch.npu.* calls at "
            "module level in the plugin"
        )


def _threads() -> list[str]:
    """The names of threads besides the main one; most libraries' do not survive a fork."""
    tasks = Path("/proc/self/task")
    own = str(threading.get_native_id())
    return [
        (task / "comm").read_text().strip() for task in sorted(tasks.iterdir()) if task.name != own
    ]


def _send(events: TextIO, **event: object) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


class _Worker:
    """Reads requests, forks guards and reports their ends, in one thread."""

    def __init__(self, events: TextIO) -> None:
        self.events = events
        self.guards: dict[int, Request] = {}
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        os.set_blocking(self.wake_read, False)

    def serve(self) -> None:
        """Runs until the input ends, or SIGTERM arrives; then ends every cell."""
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, _raise_exit)
        pending = b""
        try:
            while True:
                readable, _, _ = select.select([0, self.wake_read], [], [], HEARTBEAT_S)
                if self.wake_read in readable:
                    os.read(self.wake_read, 4096)
                self._reap()
                if 0 in readable:
                    data = os.read(0, 65536)
                    if not data:
                        return
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        self._start(Request(**json.loads(line)))
                if not readable:
                    _send(self.events, event="alive", running=[r.id for r in self.guards.values()])
        finally:
            self._end_all()

    def _start(self, request: Request) -> None:
        Path(request.workdir).mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid == 0:
            _run_forked(lambda: _guard(request))
        self.guards[pid] = request
        _send(self.events, event="started", id=request.id, pid=pid)

    def _reap(self) -> None:
        while self.guards:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            request = self.guards.pop(pid, None)
            if request is not None:
                code = os.waitstatus_to_exitcode(status)
                _send(self.events, event="finished", id=request.id, guard=code)

    def _end_all(self) -> None:
        for pid in self.guards:
            os.kill(pid, signal.SIGTERM)
        for pid in self.guards:
            os.waitpid(pid, 0)


def _raise_exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _run_forked(task: Callable[[], int]) -> NoReturn:
    """Ends this forked process with the task's status, past every exit handler of its parent."""
    status = 70
    try:
        status = task()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 70
    except BaseException:  # noqa: BLE001 - a forked process must never return into its parent's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


# -------------------------------------------------------------------------------------------- guard


def _guard(request: Request) -> int:
    """Runs one cell in a child of its own, within its time; leaves no process behind."""
    os.setsid()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _raise_exit)
    _redirect(Path(request.log))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_forked(lambda: _child(request))
    try:
        in_time = _wait(child, request.time_limit)
        if not in_time:
            _stop(child)
    except BaseException:
        _end_descendants()
        raise
    leftover = _end_descendants(keep=child)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    _write(
        Path(request.workdir) / STATUS,
        {
            "exit": code if code >= 0 else None,
            "signal": signal.Signals(-code).name if code < 0 else None,
            "timed_out": not in_time,
            "seconds": time.monotonic() - started,
            "peak_rss_bytes": usage.ru_maxrss * 1024,
            "leftover": leftover,
        },
    )
    return 0


def _redirect(log: Path) -> None:
    """Sends standard output and error to the log, and detaches standard input."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for path, flags, target in (
        (str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 1),
        (os.devnull, os.O_RDONLY, 0),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, target)
        os.close(opened)
    os.dup2(1, 2)


def _wait(pid: int, seconds: float) -> bool:
    """Waits for a child without reaping it; whether it ended in time."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _stop(child: int) -> None:
    """Ends a child that hangs, after it wrote the Python stacks of its threads into its log."""
    os.kill(child, signal.SIGUSR1)
    _wait(child, 1.0)
    os.kill(child, signal.SIGKILL)
    _wait(child, 60.0)


def _end_descendants(keep: int | None = None) -> list[str]:
    """Kills every process below this one, however it detached itself; returns their names.

    Orphans were adopted by this process, so that one of them is a direct child at the latest when
    its parent is dead. `keep` is a child that has ended and is still to be reaped by the caller.
    """
    ended: dict[int, str] = {}
    me = psutil.Process()
    for _ in range(100):
        alive = [process for process in me.children(recursive=True) if process.pid != keep]
        if not alive:
            break
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    ended.setdefault(process.pid, process.name())
                    process.kill()
        for process in psutil.wait_procs(alive, timeout=5)[0]:
            ended.setdefault(process.pid, "?")
    return sorted(ended.values())


# -------------------------------------------------------------------------------------------- child


def _child(request: Request) -> int:
    """Runs the body and writes its outcome; the status is 0 whenever the outcome was written."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    root = Path.cwd()
    os.chdir(request.workdir)
    os.environ.update(request.variables)
    if request.traced:
        from ci.tracing import traced

        with traced(root, list(request.traced), Path(request.workdir)):
            outcome = run_body(request)
    else:
        outcome = run_body(request)
    _write(Path(request.workdir) / OUTCOME, outcome)
    return 0


def run_body(request: Request) -> dict[str, Any]:
    """Calls the body of a cell and says how that ended, ready for JSON.

    Returns:
        ``verdict`` (passed, failed or error), ``error`` (class, message) or None, and ``metrics``,
        ``proof``, ``samples`` and ``timings`` as the body returned them.
    """
    empty: dict[str, Any] = {"metrics": {}, "proof": {}, "samples": [], "timings": {}}
    gate: type[BaseException] = _Never
    try:
        contract = importlib.import_module(request.contract)
        gate = contract.GateFailed
        module, _, name = request.body.partition(":")
        body = getattr(importlib.import_module(module), name)
        context = dict(request.context)
        for key in ("checkpoint", "workdir", "log"):
            context[key] = Path(context[key])
        cell = contract.CellContext(**context)
        outcome = body(cell)
        if outcome.proof and cell.commands:
            outcome.proof["commands"] = cell.commands
        result = {
            "metrics": {name: list(pair) for name, pair in outcome.metrics.items()},
            "proof": outcome.proof,
            "samples": outcome.samples,
            "timings": outcome.timings,
        }
        json.dumps(result)
    except Exception as error:  # noqa: BLE001 - a body may raise anything; that is its verdict
        traceback.print_exc()
        verdict = "failed" if isinstance(error, gate) else "error"
        told = {"class": type(error).__name__, "message": str(error) or repr(error)}
        return {"verdict": verdict, "error": told, **empty}
    if not outcome.proof:
        told = {
            "class": "NoProof",
            "message": "the body returned no proof that the feature was on; "
            "a feature that cannot prove itself does not pass",
        }
        return {"verdict": "failed", "error": told, **result}
    return {"verdict": "passed", "error": None, **result}


class _Never(Exception):
    """Stands for the contract's gate while the contract is not imported."""


def _write(path: Path, content: object) -> None:
    """Writes JSON in one step: a reader sees all of it or nothing."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
