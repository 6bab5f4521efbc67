"""The runtime without Python: as much of everything as a long run has; sanitizers (slow)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SIMULATOR = Path(__file__).parents[1]
MEBIBYTES_ALLOWED = 64
"""Growth of the process over a full run: queues grow to their longest, and stay."""


def build(flags: list[str], folder: Path) -> Path:
    """Compiles the runtime and runtime_stress.cpp into one program."""
    found = importlib.util.find_spec("torch_npu")
    assert found is not None
    assert found.submodule_search_locations
    headers = Path(found.submodule_search_locations[0]) / "include"
    table = [sys.executable, str(SIMULATOR / "cmake" / "profile_table.py")]
    arguments = [str(SIMULATOR / "cannsim" / "profiles"), str(folder / "profile_table.inc")]
    subprocess.run(table + arguments, check=True)
    sources = sorted(SIMULATOR.glob("src/runtime/*.cpp"))
    sources += [SIMULATOR / "tests/native/runtime_stress.cpp"]
    program = folder / "runtime_stress"
    subprocess.run(
        [
            "g++", "-std=c++20", "-O2", "-g", *flags, "-DFUNC_VISIBILITY",
            "-isystem", str(headers), f"-I{SIMULATOR / 'src'}", f"-I{folder}",
            *map(str, sources), "-o", str(program), "-lpthread", "-ldl",
        ],
        check=True,
    )  # fmt: skip
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "load"),
    [
        ([], ("1000000", "100000", "10000")),
        (["-fsanitize=thread"], ("200000", "10000", "4000")),
        (["-fsanitize=address"], ("1000000", "100000", "10000")),
    ],
    ids=["plain", "thread", "address"],
)
def test_nothing_leaks_and_nothing_stops(
    flags: list[str], load: tuple[str, ...], tmp_path: Path
) -> None:
    program = build(flags, tmp_path)
    done = subprocess.run(
        [str(program), *load],
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    found = json.loads(done.stdout)
    print(found)
    assert found["device_bytes_leaked"] == 0
    assert found["threads_grown"] <= 1, "a branch's stream may still be waiting"
    if not flags:
        assert found["grown_kib"] < MEBIBYTES_ALLOWED << 10
