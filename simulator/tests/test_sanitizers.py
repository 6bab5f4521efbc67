"""Collectives of two ranks in one process, built with the compiler's sanitizers (slow)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SIMULATOR = Path(__file__).parents[1]


def build(sanitizer: str, folder: Path) -> Path:
    """Compiles the runtime, the collectives and two_ranks.cpp into one program."""
    found = importlib.util.find_spec("torch_npu")
    assert found is not None
    assert found.submodule_search_locations
    headers = Path(found.submodule_search_locations[0]) / "include"
    table = [sys.executable, str(SIMULATOR / "cmake" / "profile_table.py")]
    arguments = [str(SIMULATOR / "cannsim" / "profiles"), str(folder / "profile_table.inc")]
    subprocess.run(table + arguments, check=True)
    sources = sorted(SIMULATOR.glob("src/collectives/*.cpp"))
    sources += [*sorted(SIMULATOR.glob("src/runtime/*.cpp")), SIMULATOR / "tests/two_ranks.cpp"]
    program = folder / "two_ranks"
    subprocess.run(
        [
            "g++", "-std=c++20", "-O1", "-g", f"-fsanitize={sanitizer}", "-DFUNC_VISIBILITY",
            "-isystem", str(headers), "-isystem", str(headers / "third_party/hccl/inc"),
            f"-I{SIMULATOR / 'src'}", f"-I{folder}", *map(str, sources),
            "-o", str(program), "-lpthread", "-ldl",
        ],
        check=True,
    )  # fmt: skip
    return program


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_two_ranks_of_a_process_are_clean(sanitizer: str, tmp_path: Path) -> None:
    program = build(sanitizer, tmp_path)
    found = subprocess.run(
        [str(program)], env=os.environ.copy(), capture_output=True, text=True, timeout=300
    )
    assert found.stdout.strip() == "fine", found.stderr
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
