"""Builds a C++ test program together with the simulator's own sources, for sanitizers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SIMULATOR = Path(__file__).parents[1]


def build(name: str, patterns: Sequence[str], flags: Sequence[str], folder: Path) -> Path:
    """Compiles the sources of ``patterns`` (below simulator/) into ``folder / name``.

    Raises:
        subprocess.CalledProcessError: the compiler refuses them.
    """
    found = importlib.util.find_spec("torch_npu")
    assert found is not None
    assert found.submodule_search_locations
    headers = Path(found.submodule_search_locations[0]) / "include"
    table = [sys.executable, str(SIMULATOR / "cmake" / "profile_table.py")]
    arguments = [str(SIMULATOR / "cannsim" / "profiles"), str(folder / "profile_table.inc")]
    subprocess.run(table + arguments, check=True)
    sources = [str(file) for pattern in patterns for file in sorted(SIMULATOR.glob(pattern))]
    program = folder / name
    subprocess.run(
        [
            "g++", "-std=c++20", "-g", *flags, "-DFUNC_VISIBILITY",
            "-isystem", str(headers), "-isystem", str(headers / "third_party/hccl/inc"),
            f"-I{SIMULATOR / 'src'}", f"-I{folder}", *sources,
            "-o", str(program), "-lpthread", "-ldl",
        ],
        check=True,
    )  # fmt: skip
    return program
