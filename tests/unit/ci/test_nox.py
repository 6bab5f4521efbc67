"""What the shell sees of a nox session: the exit code of the command that the session ran."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci import environment
from ci.environment import ROOT, Environment

FILES = ("noxfile.py", "ci/__init__.py", "ci/errors.py", "ci/environment.py")
"""What a session needs before anything is installed."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the noxfile, with nothing installed."""
    root = tmp_path / "checkout"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "constraints.txt").write_text("vllm==0.32.0\ntorch==2.13.0\n")
    return root


@pytest.fixture
def installed(checkout: Path) -> Path:
    """The same with an environment whose programs end with the status that is asked of them."""
    env = Environment(checkout)
    tools = ("ruff", "mypy", "lint-imports", "actionlint", "zizmor")
    for name in ("python", "cannsim", *tools):
        program = env.path / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text('#!/bin/sh\necho "$0 $*"\nexit ${STATUS:-0}\n')
        program.chmod(0o755)
    environment.write_stamp(env, environment.wanted_state(checkout))
    return checkout


def nox(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        cwd=root,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 5])
def test_the_exit_code_is_that_of_the_command(installed: Path, status: int) -> None:
    done = nox(installed, "-s", "e2e", "--", "some/*", "--jobs", "1", STATUS=str(status))
    assert done.returncode == status
    assert "-m ci e2e some/* --jobs 1" in done.stdout
    assert ("Session e2e aborted" in done.stderr) == (status != 0), "nox still tells its summary"


def test_one_failing_session_among_several_decides(installed: Path) -> None:
    ruff = installed / ".venv" / "bin" / "ruff"
    ruff.write_text("#!/bin/sh\nexit 1\n")
    done = nox(installed, "-s", "lint", "e2e")
    assert done.returncode == 1
    assert "Session e2e was successful" in done.stderr


@pytest.mark.parametrize("tool", ["ruff", "mypy", "lint-imports", "actionlint", "zizmor"])
def test_lint_fails_with_each_of_its_tools(installed: Path, tool: str) -> None:
    assert nox(installed, "-s", "lint").returncode == 0
    (installed / ".venv" / "bin" / tool).write_text("#!/bin/sh\nexit 3\n")
    assert nox(installed, "-s", "lint").returncode == 3


def test_a_problem_with_the_environment_is_infrastructure(checkout: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    done = nox(checkout, "-s", "e2e", PATH=str(bare), CXX="")
    assert done.returncode == 3
    assert "apt-get install g++" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_end_reaches_the_command_and_is_waited_for(
    installed: Path, number: signal.Signals
) -> None:
    python = installed / ".venv" / "bin" / "python"
    python.write_text(
        "#!/bin/sh\ntrap 'echo tidied; exit 130' INT TERM\necho $$ > pid\n"
        "while :; do sleep 0.05; done\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "nox", "-s", "e2e"],
        cwd=installed,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as session:
        pid = installed / "pid"
        while not (pid.is_file() and pid.read_text().strip()):
            time.sleep(0.02)
        if number == signal.SIGINT:
            os.killpg(session.pid, number)  # as a terminal does
        else:
            session.send_signal(number)
        out, _ = session.communicate(timeout=30)
    assert session.returncode == 130
    assert "tidied" in out


def test_a_session_that_does_not_exist(installed: Path) -> None:
    assert nox(installed, "-s", "e2ee").returncode != 0


def test_every_session_says_what_it_does(installed: Path) -> None:
    done = nox(installed, "--list")
    for name in ("e2e", "tests", "lint", "docs", "simulator", "perf", "ci"):
        assert f"{name} ->" in done.stdout
