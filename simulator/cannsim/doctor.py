"""`cannsim doctor`: whether torch-npu programs can run here over cannsim, and what to do if not."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from cannsim.environment import LIBRARIES, SettingError, Settings, variables

State = Literal["ok", "note", "problem"]

NEEDED = (
    "libascendcl.so",
    "libopapi.so",
    "libhccl.so",
    "libacl_op_compiler.so",
    "libge_runner.so",
    "libgraph.so",
    "libacl_tdt_channel.so",
)
"""Libraries that torch-npu is linked with (its ELF NEEDED entries)."""

TORCH, TORCH_NPU = "2.13.0", "2.13.0"
"""Versions that cannsim is built and tested with."""

SELF_TEST = """
import ctypes, torch, torch_npu
x = torch.arange(6., device="npu").view(2, 3)
assert (x @ x.t()).cpu().tolist() == [[5., 14.], [14., 50.]], "a product is wrong"
from cannsim import counters
assert counters.snapshot()["launches"], "no launch was counted"
name, cann = torch.npu.get_device_name(), torch_npu.npu.utils.get_cann_version()
print("computed on", name, "with CANN", cann)
"""
SELF_TEST_SECONDS = 120


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and what to do where it is a problem."""

    about: str
    state: State
    found: str
    advice: str = ""


def findings(settings: Settings) -> Iterator[Finding]:
    """Looks at everything, one finding after the other; the last runs a program in a child."""
    for look in (_python, _libraries, _torch, _torch_npu):
        yield look()
    yield from _other_cann()
    yield _search_path()
    yield _current_process()
    yield self_test(settings)


def _python() -> Finding:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return Finding(
            "platform", "problem", found, "torch-npu has wheels for Linux on x86_64 and aarch64"
        )
    return Finding("platform", "ok", found)


def _libraries() -> Finding:
    missing = [name for name in NEEDED if not (LIBRARIES / name).is_file()]
    if missing:
        return Finding(
            "libraries",
            "problem",
            f"{LIBRARIES} lacks {', '.join(missing)}",
            "build and install cannsim again: `pip install .` in its source folder",
        )
    return Finding("libraries", "ok", f"cannsim {_version('cannsim')} in {LIBRARIES}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch() -> Finding:
    found = _version("torch")
    if found is None:
        advice = f"pip install torch=={TORCH} (the CPU build is enough)"
        return Finding("torch", "problem", "not installed", advice)
    if found.split("+")[0] != TORCH:
        # libopapi.so is linked with libtorch_cpu.so, whose C++ interface changes with each version.
        advice = f"pip install torch=={TORCH}, or build cannsim from source against this one"
        return Finding("torch", "problem", f"{found}; cannsim was built with {TORCH}", advice)
    return Finding("torch", "ok", found)


def _torch_npu() -> Finding:
    found, torch = _version("torch-npu"), _version("torch")
    if found is None:
        return Finding(
            "torch-npu", "problem", "not installed", f"pip install torch-npu=={TORCH_NPU}"
        )
    if torch is not None and _minor(found) != _minor(torch):
        advice = (
            f"torch and torch-npu must agree in their version: pip install torch-npu=={TORCH_NPU}"
        )
        return Finding("torch-npu", "problem", f"{found} beside torch {torch}", advice)
    return Finding("torch-npu", "ok", found)


def _minor(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[.+]", text)[:2])


def _other_cann() -> Iterator[Finding]:
    """A toolkit of CANN that is installed too, or named by the environment."""
    places = ("/usr/local/Ascend/ascend-toolkit", "/usr/local/Ascend/cann", "~/Ascend")
    for place in (Path(name).expanduser() for name in places):
        if place.exists():
            yield Finding(
                "another CANN",
                "note",
                f"{place} is installed",
                "do not source its set_env.sh in a shell that runs cannsim: the first in "
                "LD_LIBRARY_PATH wins",
            )
    home = os.environ.get("ASCEND_HOME_PATH", "")
    if home and "/cannsim/" not in f"{home}/":
        yield Finding(
            "another CANN",
            "problem",
            f"ASCEND_HOME_PATH={home}",
            'start programs by `cannsim run --`, or `eval "$(cannsim env)"` last',
        )


def _search_path() -> Finding:
    """Which libascendcl.so the loader would take from LD_LIBRARY_PATH of this shell."""
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        library = Path(folder) / "libascendcl.so"
        if not folder or not library.exists():
            continue
        if library.resolve().parent == LIBRARIES.resolve():
            return Finding("library path", "ok", f"{library} is cannsim's")
        return Finding(
            "library path",
            "problem",
            f"{library} comes first and is not cannsim's",
            'remove it from LD_LIBRARY_PATH, or `eval "$(cannsim env)"` after it',
        )
    return Finding(
        "library path",
        "note",
        "no libascendcl.so on LD_LIBRARY_PATH of this shell",
        'start programs by `cannsim run --`, or `eval "$(cannsim env)"`; without it `import torch` '
        "fails where torch-npu is installed",
    )


def _current_process() -> Finding:
    preload = os.environ.get("LD_PRELOAD", "")
    if "ascend" in preload.lower():
        return Finding("preload", "problem", f"LD_PRELOAD={preload}", "unset LD_PRELOAD")
    autoload = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
    if autoload == "0":
        return Finding(
            "autoload",
            "note",
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0",
            'programs have to `import torch_npu` before they use "npu"',
        )
    return Finding("autoload", "ok", "`import torch` loads torch-npu")


def self_test(settings: Settings) -> Finding:
    """Multiplies two matrices on "npu" in a child that has the environment."""
    about = f"self-test ({settings.chip}, CANN {settings.cann})"
    try:
        environment = os.environ | variables(settings)
    except SettingError as error:
        return Finding(about, "problem", str(error), "see `cannsim info`")
    try:
        ran = subprocess.run(
            [sys.executable, "-c", SELF_TEST],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SELF_TEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Finding(
            about,
            "problem",
            f"no end within {SELF_TEST_SECONDS} s",
            "run `CANNSIM_INLINE=1 cannsim run -- python` and multiply two matrices by hand",
        )
    if ran.returncode == 0:
        return Finding(about, "ok", ran.stdout.strip().splitlines()[-1])
    last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding(about, "problem", f"exit code {ran.returncode}: {last}", _advice(ran.stderr))


_CAUSES: Sequence[tuple[str, str]] = (
    ("undefined symbol", "cannsim was built against another torch or torch-npu: build it again"),
    ("cannot open shared object file", "a library is missing: `pip install .` again, see above"),
    ("GLIBC", "this cannsim was built on a newer system: build it here from source"),
    ("No module named", "install what is missing in this environment"),
)


def _advice(errors: str) -> str:
    for sign, advice in _CAUSES:
        if sign in errors:
            return advice
    return "the child's whole message: `cannsim run -- python -c 'import torch_npu'`"


MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


def report(settings: Settings, write: Callable[[str], None] = print) -> int:
    """Writes the findings; returns 0 where there is no problem, else 1."""
    worst = 0
    for finding in findings(settings):
        write(f"{MARKS[finding.state]} {finding.about}: {finding.found}")
        if finding.advice and finding.state != "ok":
            write(f"        -> {finding.advice}")
        worst = max(worst, int(finding.state == "problem"))
    return worst
