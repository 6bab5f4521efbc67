"""The shared environment: built once, again only where inputs changed, never half; clear errors."""

from __future__ import annotations

import fcntl
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from ci import environment, errors
from ci.environment import Environment

FAKE_PYTHON = """#!/bin/sh
# Stands for an interpreter: answers what is asked of it, notes every call, fails when told to.
root={root}
case "$1 $2" in
  "-c import"*) echo "{version} {tail}"; exit 0;;
esac
echo "$*" >> $root/calls
if [ -f $root/fail ] && echo "$*" | grep -q -- "$(cat $root/fail)"; then
  cat $root/message; exit 1
fi
case "$1 $2" in
  "-m venv") mkdir -p $3/bin $3/lib/python3.11/site-packages; cp $0 $3/bin/python
    echo "version = 3.11.7" > $3/pyvenv.cfg;;
  "-m pip") while [ $# -gt 1 ]; do
      [ "$1" = --wheel-dir ] && touch $2/vllm-0.32.0-py3-none-any.whl; shift; done;;
esac
exit 0
"""


class Bench(NamedTuple):
    """A checkout with stand-ins for Python and for the installed things."""

    environment: Environment
    root: Path

    def ensure(self) -> list[str]:
        """Brings the environment up to date; returns the commands that it took."""
        calls = self.root / "calls"
        calls.write_text("")
        environment.ensure(self.environment)
        return calls.read_text().splitlines()

    def fail_on(self, pattern: str, message: str = "it did not work") -> None:
        """Makes every command that contains a pattern fail."""
        (self.root / "fail").write_text(pattern)
        (self.root / "message").write_text(message)


def fake_python(path: Path, root: Path, version: str = "3.11", tail: str = "ok") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE_PYTHON.format(root=root, version=version, tail=tail))
    path.chmod(0o755)
    return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    root = tmp_path / "checkout"
    for name, text in {
        "VERSION": "0.1.0",
        "constraints.txt": "# pins\nvllm==0.32.0\ntorch==2.13.0\n",
        "pyproject.toml": "",
        "plugin/pyproject.toml": "",
        "ci/torchvision_operators.py": "",
        "simulator/pyproject.toml": "",
        "simulator/src/runtime/stream.cpp": "int main() {}",
        "simulator/tests/test_stream.py": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(sys, "executable", str(fake_python(tmp_path / "bin" / "python", root)))
    return Bench(Environment(root, tmp_path / "cache"), root)


# ------------------------------------------------------------------------------------ what is built


def test_a_first_build_installs_everything_in_order(bench: Bench) -> None:
    calls = bench.ensure()
    assert [call.split()[1:3] for call in calls] == [["venv", str(bench.root / ".venv")]] + [
        ["pip", action] for action in ("install", "wheel", *["install"] * 5)
    ]
    torch, vllm, everything, weights, transforms, trees, simulator = calls[1:]
    assert " torch " in torch
    assert "--no-binary vllm" in vllm
    assert "torch-npu" in everything
    assert f"--editable {bench.root}[dev]" in everything
    assert "--no-deps" in weights
    assert "--no-deps torchvision" in transforms
    assert "--no-deps --no-build-isolation arctic-inference" in trees
    assert simulator.split()[-1].startswith("--config-settings=build-dir=")
    assert all(f"--constraint {bench.root}/constraints.txt" in call for call in calls[1:])


def test_python_starts_with_what_makes_torchvision_importable(bench: Bench) -> None:
    bench.ensure()
    folder = environment.site_packages(bench.environment)
    (path,) = folder.glob("*.pth")
    assert path.read_text() == "import _torchvision_operators\n"
    copied = folder / "_torchvision_operators.py"
    assert copied.read_text() == environment.OPERATOR_FINDER.read_text()


def test_a_second_run_starts_no_process(bench: Bench) -> None:
    bench.ensure()
    assert bench.ensure() == []


def test_a_change_of_the_simulator_rebuilds_only_the_simulator(bench: Bench) -> None:
    bench.ensure()
    (bench.root / "simulator/src/runtime/stream.cpp").write_text("int main() { return 1; }")
    (call,) = bench.ensure()
    assert f"{bench.root}/simulator" in call
    assert bench.ensure() == []


def test_a_change_of_the_simulators_tests_rebuilds_nothing(bench: Bench) -> None:
    bench.ensure()
    (bench.root / "simulator/tests/test_stream.py").write_text("assert True")
    assert bench.ensure() == []


@pytest.mark.parametrize("name", environment.PACKAGE_INPUTS)
def test_a_change_of_a_pin_or_a_project_installs_packages_in_place(bench: Bench, name: str) -> None:
    bench.ensure()
    path = bench.root / name
    path.write_text(path.read_text() + "\n# changed\n")
    calls = bench.ensure()
    assert calls
    assert not any("venv" in call.split()[1] for call in calls)
    assert "--config-settings" in calls[-1], "the simulator is linked to what is installed"


def test_a_built_wheel_is_used_again(bench: Bench) -> None:
    bench.ensure()
    shutil.rmtree(bench.root / ".venv")
    assert not any("pip wheel" in call for call in bench.ensure())


def test_a_moved_checkout_gets_a_new_environment(bench: Bench, tmp_path: Path) -> None:
    bench.ensure()
    moved = bench.root.rename(tmp_path / "moved")
    (tmp_path / "checkout").symlink_to(moved)  # the stand-in for Python notes its calls there
    calls = Bench(replace(bench.environment, root=moved), moved).ensure()
    assert calls[0].split()[1] == "venv"


def test_an_environment_that_was_made_by_hand_is_completed(bench: Bench, tmp_path: Path) -> None:
    fake_python(bench.environment.python, bench.root)
    environment.site_packages(bench.environment).mkdir(parents=True)
    (bench.environment.path / "pyvenv.cfg").write_text("home = /usr\nversion = 3.11.2\n")
    calls = bench.ensure()
    assert not any("venv" in call.split()[1] for call in calls)
    assert len(calls) == 7


def test_an_environment_of_another_tool_and_python_is_left_alone(bench: Bench) -> None:
    fake_python(bench.environment.python, bench.root)
    (bench.environment.path / "pyvenv.cfg").write_text("version_info = 3.12.1\n")
    with pytest.raises(errors.WrongPythonError, match="not made by this project"):
        bench.ensure()
    assert bench.environment.python.exists()


# ------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize(
    ("step", "again"),
    [("venv", "venv"), ("torch ", "venv"), ("wheel", "venv"), ("editable", "venv")],
)
def test_an_interrupted_installation_starts_again(bench: Bench, step: str, again: str) -> None:
    bench.fail_on(step)
    with pytest.raises(errors.InstallError):
        bench.ensure()
    assert environment.read_stamp(bench.environment).get("packages") is None
    (bench.root / "fail").unlink()
    assert bench.ensure()[0].split()[1] == again
    assert bench.ensure() == []


def test_an_interrupted_build_of_the_simulator_is_repeated_alone(bench: Bench) -> None:
    bench.fail_on("config-settings")
    with pytest.raises(errors.InstallError):
        bench.ensure()
    (bench.root / "fail").unlink()
    (call,) = bench.ensure()
    assert "--config-settings" in call


def test_a_broken_stamp_counts_as_none(bench: Bench) -> None:
    bench.ensure()
    bench.environment.stamp.write_text('{"packages": ')
    assert environment.read_stamp(bench.environment) == {}
    assert bench.ensure()


def test_two_sessions_at_once_install_once(bench: Bench) -> None:
    threads = [
        threading.Thread(target=environment.ensure, args=(bench.environment,)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = (bench.root / "calls").read_text().splitlines()
    assert len(calls) == 8


def test_waiting_for_another_session_has_an_end(bench: Bench) -> None:
    lock = bench.root / "build" / "environment.lock"
    lock.parent.mkdir()
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with (
            pytest.raises(errors.LockedError, match=r"environment\.lock"),
            environment.locked(bench.environment, timeout=0.0),
        ):
            pass


# ------------------------------------------------------------------------------------------- errors


def test_no_compiler(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(errors.MissingCompilerError) as caught:
        bench.ensure()
    assert "apt-get install g++" in str(caught.value)
    assert caught.value.exit_code == errors.INFRASTRUCTURE
    assert not bench.environment.path.exists(), "nothing is begun that cannot be finished"


def test_a_compiler_of_the_callers_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "my-c++"
    compiler.write_text("")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-c++ -O1")
    assert environment.check_compiler() == str(compiler)
    monkeypatch.setenv("CXX", "clang++-99")
    with pytest.raises(errors.MissingCompilerError, match=r"clang\+\+-99 not found"):
        environment.check_compiler()


def test_too_little_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(1.5e9)))
    with pytest.raises(errors.DiskSpaceError, match=r"1\.5 GB free .* GB needed") as caught:
        bench.ensure()
    assert caught.value.exit_code == errors.INFRASTRUCTURE
    assert not bench.environment.path.exists()


def test_another_python_under_nox_is_no_problem_when_the_right_one_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = fake_python(tmp_path / "other" / "python3.13", bench.root, "3.13")
    shim = fake_python(tmp_path / "shims" / "python3.11", bench.root, "")
    right = fake_python(tmp_path / "right" / "python3.11", bench.root)
    monkeypatch.setattr(sys, "executable", str(other))
    monkeypatch.setenv("PATH", f"{shim.parent}:{right.parent}:/usr/bin:/bin")
    assert environment.find_python() == str(right)


def test_a_wrong_python(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = fake_python(tmp_path / "other" / "python3", bench.root, "3.13")
    monkeypatch.setattr(sys, "executable", str(other))
    monkeypatch.setenv("PATH", f"{other.parent}")
    monkeypatch.setattr(environment, "check_compiler", lambda: "g++")
    with pytest.raises(errors.WrongPythonError) as caught:
        bench.ensure()
    assert "apt-get install python3.11 python3.11-venv" in str(caught.value)
    assert str(other) in str(caught.value)


def test_a_python_without_venv(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stripped = fake_python(tmp_path / "o" / "python3.11", bench.root, tail="without venv")
    monkeypatch.setattr(sys, "executable", str(stripped))
    monkeypatch.setenv("PATH", str(stripped.parent))
    with pytest.raises(errors.WrongPythonError) as caught:
        environment.find_python()
    assert "apt-get install python3.11-venv" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "does not have that version"),
        ("Max retries exceeded with url: /simple/torch", "cannot be reached"),
        ("src/stream.cpp:3:1: error: expected ';'", "did not compile"),
        ("fatal error: Python.h: No such file or directory", "headers are missing"),
        ("something never seen", "see the last lines"),
    ],
)
def test_a_failed_step_tells_the_end_of_its_log_and_the_likely_cause(
    bench: Bench, message: str, cause: str
) -> None:
    bench.fail_on("editable", message)
    with pytest.raises(errors.InstallError) as caught:
        bench.ensure()
    told = str(caught.value)
    assert message in told
    assert cause in caught.value.cause
    assert str(bench.environment.log) in told
    assert caught.value.exit_code == errors.INFRASTRUCTURE


def test_variables_that_would_lead_pip_astray_are_hidden(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment.HIDDEN_VARIABLES:
        monkeypatch.setenv(name, "/elsewhere")
    environment.step(_with_log(bench), "print", ["/bin/sh", "-c", "env"])
    assert "/elsewhere" not in bench.environment.log.read_text()


def _with_log(bench: Bench) -> Environment:
    bench.environment.log.parent.mkdir(parents=True)
    return bench.environment


def test_the_simulators_variables(bench: Bench) -> None:
    script = bench.environment.path / "bin" / "cannsim"
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\necho "{\\"ARGS\\": \\"$*\\"}"\n')
    script.chmod(0o755)
    got = environment.simulated(bench.environment, "Ascend910B1", "8.5.0", 4)
    assert got == {"ARGS": "env --chip Ascend910B1 --cann 8.5.0 --devices 4 --json"}


@pytest.mark.parametrize("script", [None, "echo no such chip >&2; exit 2", "echo not json"])
def test_a_simulator_that_gives_no_variables(bench: Bench, script: str | None) -> None:
    if script:
        path = bench.environment.path / "bin" / "cannsim"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    with pytest.raises(errors.SimulatorError, match="cannsim env") as caught:
        environment.simulated(bench.environment)
    assert "nox -s simulator" in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.0, "59 s"), (61.0, "1 min 01 s"), (3600.0, "60 min 00 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert environment.duration(seconds) == text
