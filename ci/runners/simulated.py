"""Runs a plan on simulated NPUs: one warm worker per environment, one child process per cell."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ci.checkpoints import Checkpoints
from ci.environment import ROOT
from ci.errors import CiError, WorkerError
from ci.plan import Group, Job, Plan
from ci.runners import CellError, Listener, Result, Verdict
from ci.tracing import RAN
from ci.worker import CONTRACT, HEARTBEAT_S, OUTCOME, STATUS, Request
from matrix import Cell
from reports.text import plain, tail

STACK = ("torch", "torch_npu", "transformers", "vllm", "vllm.entrypoints.llm")
"""What a worker imports before it forks; together 7 to 10 seconds, paid once an environment."""

STARTS = 3
"""How often a worker is started for one environment before its cells are given up."""

LOG_TAIL_CHARACTERS = 4000
"""How much of a log goes into the record of a cell that did not pass."""

QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Inductor would start compiler processes at import, which a fork cannot share.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Variables of every cell, unless the caller's environment says otherwise: no network, no threads
before the fork."""


FLOAT32 = {"CANNSIM_EXTENSIONS": "float32-attention"}
"""For cells in float32. CANN's attention refuses that dtype and the simulator with it, unless told
otherwise; an exact comparison with a reference needs it. Records of such cells name the extension
in their proof."""


@dataclass(frozen=True)
class Settings:
    """How the runner works.

    Args:
        folder: Where logs and working folders of this run go.
        variables: The simulator's variables for a chip, a CANN version and a number of devices.
        jobs: How many cells run at a time.
        imports: What a worker imports before it forks.
        traced: Folders of which is noted what a cell runs; none unless the run is to learn.
        contract: The module with ``CellContext`` and ``GateFailed``.
        start_limit: Seconds in which a worker has to finish its imports.
        silence_limit: Seconds without a sign of life after which a worker counts as dead.
    """

    folder: Path
    variables: Callable[[str, str, int], Mapping[str, str]]
    jobs: int = 2
    imports: tuple[str, ...] = STACK
    traced: tuple[str, ...] = ()
    contract: str = CONTRACT
    start_limit: float = 300.0
    silence_limit: float = 30 * HEARTBEAT_S


class Simulated:
    """The runner for this machine's processors."""

    name = "simulated"
    evidence: Literal["simulated"] = "simulated"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, plan: Plan, checkpoints: Checkpoints, listener: Listener) -> None:
        """Runs every cell of the plan, and tells the listener of each.

        Raises:
            KeyboardInterrupt: The run was interrupted; no process of it is left.
        """
        try:
            asyncio.run(_Run(self.settings, checkpoints, listener).all(plan))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


# ------------------------------------------------------------------------------------ one whole run


class _Run:
    """The state of one run: the queue of cells and a worker for each environment in use."""

    def __init__(self, settings: Settings, checkpoints: Checkpoints, listener: Listener) -> None:
        self.settings, self.checkpoints, self.listener = settings, checkpoints, listener
        self.pools: dict[Group, _Pool] = {}

    async def all(self, plan: Plan) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        self.pools = {g: _Pool(g, self.settings, self.listener) for g in plan.groups}
        queue = iter([(group, job) for group in plan.groups for job in group.jobs])
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(max(1, self.settings.jobs)):
                    tasks.create_task(self._serve(queue))
        finally:
            await asyncio.gather(*(pool.close() for pool in self.pools.values()))

    async def _serve(self, queue: Iterator[tuple[Group, Job]]) -> None:
        """Takes one cell after the other until none is left."""
        for group, job in queue:
            self.listener.finished(await self._one(group, job))
            await self.pools[group].release()

    async def _one(self, group: Group, job: Job) -> Result:
        started, clock = datetime.now(UTC), time.monotonic()
        failure = self.checkpoints.failures.get(job.cell.model.name)
        try:
            if failure is not None:
                raise _CellFailed("CheckpointError", failure.message)
            worker = await self.pools[group].worker()
            self.listener.started(job)
            started, clock = datetime.now(UTC), time.monotonic()
            result = await self._request(worker, group, job)
        except _CellFailed as error:
            result = Result(job, group, "error", started, 0.0, error.told)
        return dataclasses.replace(result, started=started, seconds=time.monotonic() - clock)

    async def _request(self, worker: _Worker, group: Group, job: Job) -> Result:
        folder = self.settings.folder / job.cell.id.replace("/", "__")
        log = folder.with_name(f"{folder.name}.log")
        variables = cell_variables(job.cell)
        context = {
            "cell_id": job.cell.id,
            "model": job.cell.model.model_dump(mode="json"),
            "feature": job.cell.feature.model_dump(mode="json"),
            "checkpoint": str(self.checkpoints.paths[job.cell.model.name]),
            "workdir": str(folder),
            "log": str(log),
            "chip": group.chip,
            "cann": group.cann,
            "environment": {**self.pools[group].simulated, **variables},
        }
        feature = job.cell.feature
        request = Request(
            job.cell.id,
            str(feature.body),
            self.settings.contract,
            context,
            variables,
            float(feature.time_limit),
            str(folder),
            str(log),
            self.settings.traced,
        )
        await worker.run(request, grace=float(feature.time_limit) + 120)
        result = read_result(job, group, folder, log)
        result = dataclasses.replace(result, ran=_load(folder / RAN))
        if result.verdict == "passed":
            shutil.rmtree(folder, ignore_errors=True)
        return result


class _CellFailed(Exception):
    """The cell got no outcome of its own."""

    def __init__(self, kind: str, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.told = CellError(kind, message, log_tail)


class _Pool:
    """The worker of one environment: started when first needed, again when it died."""

    def __init__(self, group: Group, settings: Settings, listener: Listener) -> None:
        self.group, self.settings, self.listener = group, settings, listener
        self.left = len(group.jobs)
        self.starts = 0
        self.lock = asyncio.Lock()
        self.current: _Worker | None = None
        self.simulated: Mapping[str, str] = {}
        self.broken: CellError | None = None

    async def worker(self) -> _Worker:
        """A worker that is ready; raises _CellFailed when there can be none."""
        async with self.lock:
            if self.current is not None and self.current.alive:
                return self.current
            if self.broken is not None:
                raise _CellFailed(self.broken.kind, self.broken.message, self.broken.log_tail)
            try:
                return await self._start()
            except CiError as error:
                end = log_tail(self._log)
                self.broken = CellError(type(error).__name__, str(error), end)
                self.listener.note(str(error))
                raise _CellFailed(self.broken.kind, self.broken.message, end) from error

    @property
    def _log(self) -> Path:
        return self.settings.folder / f"worker-{self.group.name}.log"

    async def _start(self) -> _Worker:
        if self.starts == STARTS:
            raise WorkerError(
                f"the worker of {self.group.name} died {STARTS} times",
                "the machine is short of memory, or a cell kills processes that are not its own",
                f"see {self._log} and `dmesg`; try --jobs 1",
            )
        self.starts += 1
        group = self.group
        self.simulated = await asyncio.to_thread(
            self.settings.variables, group.chip, group.cann, group.devices
        )
        worker = _Worker(self._log, self.settings)
        self.current = worker
        seconds, threads = await worker.start(
            {**base_variables(self.settings.jobs), **self.simulated}
        )
        self.listener.note(
            f"{group.chip}, CANN {group.cann}: ready in {seconds:.1f} s "
            f"(imports shared by {self.left} cells)"
        )
        if threads:
            with self._log.open("a") as log:
                log.write(f"threads besides the main one before the fork: {threads}\n")
        return worker

    async def release(self) -> None:
        """Counts a cell as done; the last one ends the worker, which holds much memory."""
        self.left -= 1
        if self.left == 0:
            await self.close()

    async def close(self) -> None:
        """Ends the worker, and with it every process of its cells."""
        if self.current is not None:
            await self.current.close()
            self.current = None


# ---------------------------------------------------------------------------- one worker, from here


class _Worker:
    """The runner's end of one worker process."""

    def __init__(self, log: Path, settings: Settings) -> None:
        self.log, self.settings = log, settings
        self.process: asyncio.subprocess.Process | None = None
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.reader: asyncio.Task[None] | None = None
        self.ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    @property
    def alive(self) -> bool:
        """Whether requests are still answered."""
        return self.reader is not None and not self.reader.done()

    async def start(self, variables: Mapping[str, str]) -> tuple[float, list[str]]:
        """Starts the process; returns its seconds of import and the threads that it then had.

        Raises:
            WorkerError: It died, or did not finish its imports in time.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ci.worker", *self.settings.imports),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=dict(variables),
                # An interrupt at the terminal reaches the runner only, which then ends the worker.
                start_new_session=True,
                limit=2**24,
            )
        self.reader = asyncio.create_task(self._read(self.process))
        try:
            event = await asyncio.wait_for(self.ready, self.settings.start_limit)
        except TimeoutError:
            await self.close()
            raise WorkerError(
                f"a worker did not finish its imports in {self.settings.start_limit:.0f} s",
                "the machine is overloaded, or an import waits for something",
                f"see {self.log}",
            ) from None
        if event["event"] != "ready":
            raise WorkerError(
                f"a worker could not import {', '.join(self.settings.imports)}: "
                f"{event['error']}: {event['message']}",
                "the plugin or the simulator is broken or not installed as the checkout has it",
                f"see {self.log}; `nox -s simulator` shows whether the simulator works by itself",
            )
        return float(event["seconds"]), list(event["threads"])

    async def run(self, request: Request, grace: float) -> None:
        """Has one cell run to its end.

        Args:
            request: The cell.
            grace: Seconds after which the guard itself counts as lost.

        Raises:
            _CellFailed: The worker died meanwhile.
        """
        assert self.process is not None
        assert self.process.stdin is not None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[request.id] = done
        self.process.stdin.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
        try:
            await self.process.stdin.drain()
            await asyncio.wait_for(done, grace)
        except (TimeoutError, ConnectionError) as error:
            raise self._lost() from error
        finally:
            self.waiting.pop(request.id, None)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Turns the worker's events into results of futures until it ends or falls silent."""
        assert process.stdout is not None
        try:
            while True:
                limit = self.settings.silence_limit if self.ready.done() else None
                line = await asyncio.wait_for(process.stdout.readline(), limit)
                if not line:
                    break
                self._hear(json.loads(line))
        except TimeoutError:
            process.kill()
        finally:
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(self._lost())
            if not self.ready.done():
                self.ready.set_result(
                    {"event": "broken", "error": "WorkerDied", "message": "it ended by itself"}
                )

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] in ("ready", "broken") and not self.ready.done():
            self.ready.set_result(event)
        elif event["event"] == "finished":
            future = self.waiting.get(event["id"])
            if future is not None and not future.done():
                future.set_result(None)

    def _lost(self) -> _CellFailed:
        return _CellFailed(
            "WorkerDied",
            f"the process that starts the cells died or fell silent; see {self.log}",
            log_tail(self.log),
        )

    async def close(self) -> None:
        """Closes the worker's input, upon which it ends its cells; kills it if it does not."""
        if self.process is None:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 30)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        if self.reader is not None:
            await asyncio.gather(self.reader, return_exceptions=True)


# ------------------------------------------------------------------------------------------ results


def base_variables(jobs: int) -> dict[str, str]:
    """The caller's environment with the quiet variables, and the processors shared by the jobs."""
    processors = len(os.sched_getaffinity(0))
    threads = {"OMP_NUM_THREADS": str(max(1, processors // max(1, jobs)))}
    return {**QUIET, **threads, **os.environ}


def cell_variables(cell: Cell) -> dict[str, str]:
    """What a cell needs beside the variables of its environment."""
    engine = {**cell.model.engine, **cell.feature.engine}
    return dict(FLOAT32) if engine.get("dtype", cell.model.dtype) == "float32" else {}


def read_result(job: Job, group: Group, folder: Path, log: Path) -> Result:
    """What the guard and the child wrote about a cell, as a result without its times."""
    now = datetime.now(UTC)
    status, outcome = _load(folder / STATUS), _load(folder / OUTCOME)
    if status is None:
        error = CellError("GuardDied", "the cell's guard ended without a word", log_tail(log))
        return Result(job, group, "error", now, 0.0, error, log=log)
    metrics = {"peak_host_memory": (float(status["peak_rss_bytes"]), "bytes")}
    if outcome is None:
        error = _no_outcome(job, status, log)
        return Result(job, group, "error", now, 0.0, error, metrics=metrics, log=log)
    told = outcome["error"]
    verdict: Verdict = outcome["verdict"]
    return Result(
        job,
        group,
        verdict,
        now,
        0.0,
        None if told is None else CellError(told["class"], told["message"], log_tail(log)),
        {name: (pair[0], pair[1]) for name, pair in outcome["metrics"].items()} | metrics,
        outcome["proof"],
        outcome["samples"],
        outcome["timings"],
        log,
    )


def _no_outcome(job: Job, status: Mapping[str, Any], log: Path) -> CellError:
    """Why a child ended before it wrote its outcome."""
    if status["timed_out"]:
        limit = job.cell.feature.time_limit
        return CellError(
            "TimeLimit",
            f"stopped at its time limit of {limit} s (features.yaml, {job.cell.feature.name}); "
            f"the stacks of its threads are in {log}",
            log_tail(log),
        )
    if status["signal"]:
        return CellError("Crash", f"ended by {status['signal']}; see {log}", log_tail(log))
    message = f"ended with status {status['exit']} before it wrote an outcome; see {log}"
    return CellError("Exit", message, log_tail(log))


def _load(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def log_tail(path: Path, characters: int = LOG_TAIL_CHARACTERS) -> str:
    """The end of a log, from the start of a line; empty when there is none."""
    return plain(tail(path, characters))


__all__ = ["STACK", "Settings", "Simulated", "base_variables", "log_tail", "read_result"]
