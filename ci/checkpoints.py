"""Makes the checkpoints that a run needs, in a process of its own, before any cell starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ci.errors import INFRASTRUCTURE


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be made.

    Args:
        message: What the checkpoint code said, in its own words.
        exit_code: The status that it ended with.
    """

    message: str
    exit_code: int


@dataclass
class Checkpoints:
    """The checkpoint folders by model name, and the failures by model name."""

    paths: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


COMMAND = (sys.executable, "-m", "matrix.checkpoints")
"""Takes model names; prints ``name<TAB>path<TAB>time`` for each, and stops at the first failure."""


def prepare(
    models: Sequence[str],
    note: Callable[[str], None],
    command: Sequence[str] = COMMAND,
) -> Checkpoints:
    """Builds what is not in the cache yet.

    A process of its own, because it imports torch on the plain CPU. A model that fails is recorded
    and the others go on, so that one damaged file costs only the cells that need it.

    Args:
        models: Names of models, in order.
        note: Hears of each failure once.
        command: What to run, with the names as further arguments.
    """
    result = Checkpoints()
    todo = list(dict.fromkeys(models))
    while todo:
        done = subprocess.run(
            [*command, *todo],
            capture_output=True,
            text=True,
            env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "HF_HUB_OFFLINE": "1"},
        )
        for line in done.stdout.splitlines():
            name, *rest = line.split("\t")
            if name in todo and rest:
                result.paths[name] = Path(rest[0])
        todo = [name for name in todo if name not in result.paths]
        if not todo:
            break
        # The command stops at the first model that fails, so that is the first one not printed.
        failed = todo.pop(0)
        message = done.stderr.strip().removeprefix("error: ") or (
            f"`{' '.join(command)} {failed}` printed no path and ended with {done.returncode}"
        )
        result.failures[failed] = Failure(message, done.returncode or INFRASTRUCTURE)
        note(f"The checkpoint of {failed} could not be made: {message}")
    return result
