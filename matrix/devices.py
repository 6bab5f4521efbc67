"""The variables under which a process finds the simulated NPU that a cell asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from matrix.errors import DeviceError


def simulated(
    chip: str,
    cann: str,
    dtype: str,
    *,
    devices: int = 1,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> dict[str, str]:
    """Return variables to set before the process starts, as the simulator's command prints them.

    Args:
        chip: the chip's name as CANN reports it.
        cann: the CANN version.
        dtype: of the weights.
        devices: how many the process sees.
        environment: variables under which the command itself runs: which simulator it is.
        folder: where the command runs.

    Raises:
        DeviceError: the command is missing, or knows no such chip or version.
    """
    command = [sys.executable, "-m", "cannsim", "env", "--json"]
    command += ["--chip", chip, "--cann", cann, "--devices", str(devices)]
    if dtype == "float32":
        # The chip's fused attention takes 16-bit types only.
        command += ["--extension", "float32-attention"]
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=folder
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip()
        raise DeviceError(
            f"`{' '.join(command)}` gave no environment: {detail}",
            "The simulator is not installed beside this Python, or knows no such chip or version.",
            "Use the nox sessions; they set the environment up.",
        ) from error
    return found
