"""The runtime without Python: as much of everything as a long run has; sanitizers (slow)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from simulator.tests.programs_cpp import build

MEBIBYTES_ALLOWED = 64
"""Growth of the process over a full run: queues grow to their longest, and stay."""


SOURCES = ("src/runtime/*.cpp", "tests/native/runtime_stress.cpp")


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
    program = build("runtime_stress", SOURCES, ["-O2", *flags], tmp_path)
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
