"""Bodies that do what bodies do, good and bad, without an engine: for the tests of the runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.context import CellContext, GateFailed, Outcome

FOREVER = "import time; time.sleep(600)"


def passes(ctx: CellContext) -> Outcome:
    print("hello from", ctx.cell_id)
    return Outcome(
        metrics={"speed": (12.5, "tokens/s")},
        proof={
            "chip": ctx.chip,
            "seen": os.environ.get("FAKE_NPU"),
            "extensions": os.environ.get("CANNSIM_EXTENSIONS", "none"),
            "told": ctx.environment.get("CANNSIM_EXTENSIONS", "none"),
        },
        timings={"import": 0.1, "engine_start": 0.2, "generation": 0.3},
    )


def starts_python(ctx: CellContext) -> Outcome:
    code = "from tests.unit.ci import bodies; bodies.elsewhere()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
    return Outcome(proof={"started": True})


def elsewhere() -> None:
    print("in another process")


def serves(ctx: CellContext) -> Outcome:
    ctx.started(f"vllm serve {ctx.checkpoint} --log={ctx.workdir}/server.log")
    return Outcome(proof={"on": True})


def fails(ctx: CellContext) -> Outcome:
    raise GateFailed("token 3 of prompt 1 differs: 17 is not 12")


def raises(ctx: CellContext) -> Outcome:
    raise ZeroDivisionError("nobody expected this")


def proves_nothing(ctx: CellContext) -> Outcome:
    return Outcome()


def returns_nonsense(ctx: CellContext) -> Outcome:
    return Outcome(metrics={"speed": (float("nan"), "tokens/s")}, proof={"on": True})


def crashes(ctx: CellContext) -> Outcome:
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome()


def leaves(ctx: CellContext) -> Outcome:
    os._exit(7)


def hangs(ctx: CellContext) -> Outcome:
    _start_detached(ctx)
    time.sleep(600)
    return Outcome()


def leaves_processes(ctx: CellContext) -> Outcome:
    _start_detached(ctx)
    return Outcome(proof={"started": True})


def waits(ctx: CellContext) -> Outcome:
    _start_detached(ctx)
    time.sleep(600)
    return Outcome()


def kills_the_worker(ctx: CellContext) -> Outcome:
    guard = os.getppid()
    stat = Path(f"/proc/{guard}/stat").read_text()
    os.kill(int(stat.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    time.sleep(600)
    return Outcome()


def _start_detached(ctx: CellContext) -> None:
    """Starts a grandchild in a session of its own, whose parent ends at once: the hard case."""
    code = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {FOREVER!r}],\n"
        "    start_new_session=True, stdout=subprocess.DEVNULL)\n"
        "print(p.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    Path(ctx.log).with_suffix(".pid").write_text(done.stdout.strip())
