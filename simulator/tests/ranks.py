"""Runs a program on several ranks, each a process with a device of its own.

Usage: python -m simulator.tests.ranks RANKS MODULE PROGRAM [ARGUMENT] forks the ranks from one
process that has imported torch_npu and touched no device, and prints what each found, as JSON.
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
LIMIT = 120.0
"""Seconds after which ranks that have not finished are killed, and the test fails."""


class Ranks:
    """A program on ``count`` ranks of the simulator, started at once.

    ``results()`` gives what each rank's program returned (``None`` for one that was killed by its
    program's wish); an exception of a rank fails the caller with its traceback.
    """

    def __init__(
        self,
        count: int,
        module: str,
        program: str,
        argument: object = None,
        devices: int | None = None,
        prefix: tuple[str, ...] = (),
        **variables: str,
    ) -> None:
        removed = ("CANNSIM_", "HCCL_", "TORCH_HCCL_", "TASK_QUEUE")
        base = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
        command = [sys.executable, "-m", "cannsim", "run", "--devices", str(devices or count), "--"]
        program_line = [sys.executable, "-m", "simulator.tests.ranks", str(count), module, program]
        self._process = subprocess.Popen(
            [*prefix, *command, *program_line, json.dumps(argument)],
            cwd=ROOT,
            env=base | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self) -> list[Any]:
        try:
            out, errors = self._process.communicate(timeout=LIMIT + 60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
        assert lines, errors
        found = json.loads(lines[0].removeprefix("RESULT "))
        failures = [one["error"] for one in found if "error" in one]
        assert not failures, "\n".join(failures) + errors
        return [one["result"] for one in found]


def _child(rank: int, count: int, store: str, call: Any, argument: Any, writer: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "STORE": store}
    # torch-npu derives a default host port from these where a launcher has set them.
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
    try:
        found: dict[str, Any] = {"result": call(rank, count, argument)}
    except BaseException:  # noqa: BLE001
        found = {"error": f"rank {rank}: {traceback.format_exc()}"}
    with os.fdopen(writer, "w") as pipe:
        pipe.write(json.dumps(found))
    # torch's own destructors are not what is tested.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _gather(children: dict[int, tuple[int, int]]) -> list[dict[str, Any]]:
    """What each child wrote, in the order of the ranks; ends those that take too long."""
    texts = dict.fromkeys(children, "")
    waiting = {reader: rank for rank, (_, reader) in children.items()}
    end = time.monotonic() + LIMIT
    while waiting and time.monotonic() < end:
        for reader in select.select(list(waiting), [], [], 1.0)[0]:
            data = os.read(reader, 1 << 16)
            if data:
                texts[waiting[reader]] += data.decode()
            else:
                waiting.pop(reader)
    found = []
    for rank, (pid, _) in children.items():
        if rank in waiting.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            found.append({"error": f"rank {rank} did not finish within {LIMIT} s"})
            continue
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if texts[rank]:
            found.append(json.loads(texts[rank]))
        elif status == -signal.SIGKILL:
            found.append({"result": None})
        else:
            found.append({"error": f"rank {rank} ended with {status} and said nothing"})
    return found


def main(count: int, module: str, program: str, argument: Any) -> None:
    """Forks the ranks and prints their results."""
    import torch
    import torch_npu  # noqa: F401

    torch.set_num_threads(1)
    call = importlib.import_module(module).PROGRAMS[program]
    children = {}
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(count):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                _child(rank, count, f"{folder}/store", call, argument, writer)
            os.close(writer)
            children[rank] = (pid, reader)
        found = _gather(children)
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
