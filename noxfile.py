"""The front door: every task of the project as a nox session over one shared environment."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from ci import environment as shared  # noqa: E402
from ci.errors import CiError  # noqa: E402

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests", "e2e"]

_exit_codes: list[int] = []


@atexit.register
def _exit_as_the_first_failure() -> None:
    """Ends nox with the status of the first command that failed.

    Nox itself answers 1 to every failure; the codes of `ci/errors.py` say more.
    """
    if _exit_codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_codes[0])


def environment(session: nox.Session) -> shared.Environment:
    """The shared environment, up to date; a problem ends the session with its exit code."""
    try:
        return shared.ensure()
    except CiError as error:
        _exit_codes.append(error.exit_code)
        session.error(str(error))


def run(session: nox.Session, *command: str, variables: Mapping[str, str] | None = None) -> None:
    """Runs a command in the repository; a status other than 0 fails the session and is kept.

    An interrupt reaches the command by the terminal, and a request to end is passed on; either way
    the command is waited for, so that it can finish what it writes.
    """
    session.log(" ".join([Path(command[0]).name, *command[1:]]))
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(variables or {})})
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, end)
    if status != 0:
        # A command that a signal ended gets the status that a shell would give it.
        _exit_codes.append(status if status > 0 else 128 - status)
        session.error(f"{Path(command[0]).name} ended with status {_exit_codes[-1]}")


def simulated(session: nox.Session, env: shared.Environment) -> dict[str, str]:
    """Variables for a process that imports torch: two simulated NPUs, and no network."""
    try:
        variables = shared.simulated(env)
    except CiError as error:
        _exit_codes.append(error.exit_code)
        session.error(str(error))
    return {**variables, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


@nox.session
def e2e(session: nox.Session) -> None:
    """Run cells end to end; the smoke selection by default (-- --help lists the flags)."""
    env = environment(session)
    run(session, str(env.python), "-m", "ci", "e2e", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit and integration tests and the simulator's (arguments go to pytest)."""
    env = environment(session)
    variables = simulated(session, env)
    if any(Path(arg.split("::")[0]).exists() for arg in session.posargs):
        runs: tuple[tuple[str, ...], ...] = ((),)
    else:
        # The simulator's tests choose how torch-npu launches, which holds for a whole process.
        runs = (("tests/unit", "tests/integration"), ("simulator/tests",))
    for chosen in runs:
        command = (str(env.python), "-m", "pytest", *chosen, *session.posargs)
        run(session, *command, variables=variables)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, the import rules, the plugin's size and the workflows; change nothing."""
    env = environment(session)
    run(session, env.tool("ruff"), "check", ".")
    run(session, env.tool("ruff"), "format", "--check", ".")
    run(session, env.tool("mypy"))
    run(session, env.tool("lint-imports"))
    run(session, str(env.python), "-m", "ci.plugin_size")
    run(session, str(env.python), "-m", "ci", "workflows", "--check")
    workflows = sorted(str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    run(session, env.tool("actionlint"), "-shellcheck", env.tool("shellcheck"), *workflows)
    zizmor = (env.tool("zizmor"), "--offline", "--quiet", "--persona", "pedantic")
    run(session, *zizmor, "--config", ".github/zizmor.yml", *workflows)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site with the support table, in build/site."""
    env = environment(session)
    variables = simulated(session, env)
    run(session, str(env.python), "-m", "reports", "site", *session.posargs, variables=variables)


@nox.session
def simulator(session: nox.Session) -> None:
    """Build the simulator where its sources changed, and run its tests in full."""
    env = environment(session)
    variables = {**simulated(session, env), "HYPOTHESIS_PROFILE": "full"}
    arguments = session.posargs or ["simulator/tests"]
    run(session, str(env.python), "-m", "pytest", *arguments, variables=variables)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which ATen operators give the CPU's result (-- --help lists the flags)."""
    env = environment(session)
    variables = simulated(session, env)
    arguments = session.posargs or ["--floor", "95"]
    run(session, str(env.python), "simulator/tests/coverage.py", *arguments, variables=variables)


@nox.session
def perf(session: nox.Session) -> None:
    """Compare two trees (-- --base REV), or decoding with transformers' on the CPU (-- decode)."""
    env = environment(session)
    variables = simulated(session, env)
    arguments = list(session.posargs) or ["decode"]
    if arguments[0] not in ("decode", "compare"):
        arguments.insert(0, "compare")
    run(session, str(env.python), "-m", "perf", *arguments, variables=variables)


@nox.session
def accuracy(session: nox.Session) -> None:
    """Ask models for answers and logprobs, and judge them (-- port|change|baseline do one part)."""
    env = environment(session)
    arguments = list(session.posargs)
    if not arguments or arguments[0] not in ("run", "port", "change", "baseline"):
        arguments.insert(0, "run")
    run(session, str(env.python), "-m", "accuracy", *arguments)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run every kind on this machine, then the tables and the site (-- --help lists the flags)."""
    env = environment(session)
    run(session, str(env.python), "-m", "ci", "nightly", *session.posargs)


@nox.session
def ci(session: nox.Session) -> None:
    """Plan jobs, write the workflows, look after runners, comments and records on GitHub."""
    env = environment(session)
    run(session, str(env.python), "-m", "ci", *(session.posargs or ["--help"]))
