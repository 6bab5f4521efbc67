"""Builds a checkpoint in a process of its own, in which no accelerator is looked for.

`import torch` loads the device plugin of an installed torch-npu, and transformers imports torch-npu
again by itself: both fail on a machine without CANN, and on one with CANN they would occupy a card
only to write files. A process apart also keeps torch out of the caller.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from matrix.checkpoints._errors import CheckpointError, CheckpointStorageError
from matrix.errors import MatrixError

if TYPE_CHECKING:
    from matrix.schema import Model

REFUSED = 4
"""Exit code of the child when its standard output is an error as JSON."""

ERRORS: dict[str, type[CheckpointError]] = {
    cls.__name__: cls for cls in (CheckpointError, CheckpointStorageError)
}


def build(model: Model, folder: Path) -> None:
    """Build the model's checkpoint into the existing, empty `folder`.

    Raises:
        CheckpointError: as the child reported it, or that it ended without a report.
    """
    child = subprocess.run(
        [sys.executable, "-m", "matrix.checkpoints._process", str(folder)],
        input=model.model_dump_json(),
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    if child.returncode == REFUSED:
        report = json.loads(child.stdout.splitlines()[-1])
        raise ERRORS[report["class"]](report["what"], report["why"], report["fix"])
    if child.returncode:
        raise CheckpointError(
            f"Building the checkpoint of {model.name} ended with exit code {child.returncode}:\n"
            + "\n".join(child.stderr.splitlines()[-12:]),
            why="A package that it needs is missing or does not fit, or memory ran out "
            "(exit code -9).",
            fix="Read the lines above; `python -m matrix.checkpoints "
            f"{model.name}` tries it again by itself.",
        )


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _main(folder: Path) -> int:
    """The child: read the model from standard input, build, report an error as one JSON line."""
    sys.modules["torch_npu"] = None  # type: ignore[assignment]  # makes its import fail cleanly
    from matrix.checkpoints import _build, _cache
    from matrix.schema import Model

    model = Model.model_validate_json(sys.stdin.read())
    try:
        with _cache.storage_errors(folder.parent):
            _build.build(model, folder)
    except MatrixError as error:
        report = {"class": type(error).__name__, "what": error.what}
        print(json.dumps({**report, "why": error.why, "fix": error.fix}))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
