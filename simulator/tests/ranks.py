"""Runs programs on several ranks, each a process with a device of its own.

The ranks are forked from one process that has imported torch_npu and touched no device (``Warm``):
importing it is most of what a small test costs. ``python -m simulator.tests.ranks`` is that
process: it reads jobs from its input, and prints what their ranks found, as JSON.

``python -m simulator.tests.ranks RANKS MODULE PROGRAM [ARGUMENT]`` runs one job, by hand.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEVICES = 32
"""The most that torch-npu was compiled for."""
LIMIT = 120.0
"""Seconds after which ranks that have not finished are killed, and the test fails."""


class Warm:
    """A process that has what ranks need, and forks them.

    ``prefix`` is a command in front, e.g. one that enters a network namespace; ``chip`` and
    ``cann`` are the ranks' (the default ones).
    """

    def __init__(self, *prefix: str, chip: str = "", cann: str = "") -> None:
        removed = ("CANNSIM_", "HCCL_", "TORCH_HCCL_", "TASK_QUEUE")
        base = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
        command = [sys.executable, "-m", "cannsim", "run", "--devices", str(DEVICES)]
        command += ["--chip", chip] if chip else []
        command += ["--cann", cann, "--"] if cann else ["--"]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*prefix, *command, sys.executable, "-m", "simulator.tests.ranks"],
            cwd=ROOT,
            env=base,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def start(
        self,
        world: int,
        program: str,
        argument: object = None,
        ranks: list[int] | None = None,
        store: str | None = None,
        **variables: str,
    ) -> None:
        """Starts ``program`` ("module:name") on ``ranks`` (all) of a group of ``world``. Processes
        that share a group name a path in common, ``store``. ``variables`` are set in the ranks.
        """
        module, name = program.split(":")
        job = {
            "world": world,
            "ranks": list(range(world)) if ranks is None else ranks,
            "module": f"simulator.tests.{module}",
            "program": name,
            "argument": argument,
            "store": store,
            "variables": variables,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def results(self) -> list[Any]:
        """What each rank's program returned; ``None`` for one that killed itself. An exception of
        a rank fails the caller with its traceback.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith("RESULT "):
                continue
            found = json.loads(line.removeprefix("RESULT "))
            failures = [one["error"] for one in found if "error" in one]
            assert not failures, "\n".join(failures)
            return [one["result"] for one in found]
        self._errors.seek(0)
        raise AssertionError(f"the ranks' parent has ended: {self._errors.read()}")

    def run(self, world: int, program: str, argument: object = None, **more: Any) -> list[Any]:
        """``start`` and ``results``."""
        self.start(world, program, argument, **more)
        return self.results()

    def close(self) -> None:
        self._process.communicate(timeout=30)
        self._errors.close()


def _child(rank: int, job: dict[str, Any], call: Any, writer: int) -> None:
    os.environ |= job["variables"] | {"STORE": job["store"]}
    try:
        found: dict[str, Any] = {"result": call(rank, job["world"], job["argument"])}
    except BaseException:  # noqa: BLE001
        found = {"error": f"rank {rank}: {traceback.format_exc()}"}
    with os.fdopen(writer, "w") as pipe:
        pipe.write(json.dumps(found))
    # torch's own destructors are not what is tested.
    sys.stderr.flush()
    os._exit(0)


def _gather(children: dict[int, tuple[int, int]]) -> list[dict[str, Any]]:
    """What each child wrote, in the order of the ranks; ends those that take too long."""
    texts = dict.fromkeys(children, "")
    waiting = {reader: rank for rank, (_, reader) in children.items()}
    end = time.monotonic() + LIMIT
    while waiting and time.monotonic() < end:
        # A rank may leave a child that holds its pipe: its own end counts, not the pipe's.
        for reader in select.select(list(waiting), [], [], 0.2)[0]:
            data = os.read(reader, 1 << 16)
            texts[waiting[reader]] += data.decode()
            if not data:
                waiting.pop(reader)
        for reader, rank in list(waiting.items()):
            ended = os.waitid(os.P_PID, children[rank][0], os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and not select.select([reader], [], [], 0)[0]:
                waiting.pop(reader)
    late = set(waiting.values())
    return [_outcome(rank, pid, texts[rank], rank in late) for rank, (pid, _) in children.items()]


def _outcome(rank: int, pid: int, text: str, late: bool) -> dict[str, Any]:
    if late:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if late:
        return {"error": f"rank {rank} did not finish within {LIMIT} s"}
    if text:
        found: dict[str, Any] = json.loads(text)
        return found
    if status == -signal.SIGKILL:
        return {"result": None}
    return {"error": f"rank {rank} ended with {status} and said nothing"}


def _run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Forks the ranks of a job and waits for them."""
    call = importlib.import_module(job["module"]).PROGRAMS[job["program"]]
    children = {}
    with tempfile.TemporaryDirectory() as folder:
        job["store"] = job["store"] or f"{folder}/store"
        for rank in job["ranks"]:
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                _child(rank, job, call, writer)
            os.close(writer)
            children[rank] = (pid, reader)
        found = _gather(children)
        for _, reader in children.values():
            os.close(reader)
    return found


def main(arguments: list[str]) -> None:
    """Runs the jobs of the standard input, or the one of the arguments."""
    import torch
    import torch_npu  # noqa: F401

    torch.set_num_threads(1)
    if arguments:
        count, module, program, *rest = arguments
        job = {"world": int(count), "ranks": list(range(int(count))), "module": module}
        job |= {"program": program, "argument": json.loads(rest[0]) if rest else None}
        print("RESULT " + json.dumps(_run(job | {"store": None, "variables": {}})), flush=True)
        return
    for line in sys.stdin:
        print("RESULT " + json.dumps(_run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
