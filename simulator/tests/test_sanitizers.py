"""Collectives of two ranks in one process, built with the compiler's sanitizers (slow)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from simulator.tests.programs_cpp import build

SOURCES = ("src/collectives/*.cpp", "src/runtime/*.cpp", "tests/two_ranks.cpp")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_two_ranks_of_a_process_are_clean(sanitizer: str, tmp_path: Path) -> None:
    program = build("two_ranks", SOURCES, ["-O1", f"-fsanitize={sanitizer}"], tmp_path)
    found = subprocess.run(
        [str(program)], env=os.environ.copy(), capture_output=True, text=True, timeout=300
    )
    assert found.stdout.strip() == "fine", found.stderr
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
