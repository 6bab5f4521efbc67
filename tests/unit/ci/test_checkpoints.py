"""Checkpoints are made in a process of their own; one that fails does not stop the others."""

from __future__ import annotations

import sys
from pathlib import Path

from ci import checkpoints
from ci.checkpoints import Failure

BUILDER = """
import sys
for name in sys.argv[1:]:
    if name == "broken":
        sys.exit(print("error: the GGUF is damaged\\nbuy a new one", file=sys.stderr) or 2)
    if name == "silent":
        sys.exit(9)
    print(f"{name}\\t/cache/{name}\\t0.1 s")
"""


def prepare(*models: str) -> tuple[checkpoints.Checkpoints, list[str]]:
    notes: list[str] = []
    command = (sys.executable, "-c", BUILDER)
    return checkpoints.prepare(models, notes.append, command), notes


def test_each_model_is_made_once() -> None:
    made, notes = prepare("a", "b", "a")
    assert made.paths == {"a": Path("/cache/a"), "b": Path("/cache/b")}
    assert (made.failures, notes) == ({}, [])


def test_a_failure_is_told_once_and_the_others_are_made() -> None:
    made, notes = prepare("a", "broken", "b", "broken")
    assert set(made.paths) == {"a", "b"}
    assert made.failures == {"broken": Failure("the GGUF is damaged\nbuy a new one", 2)}
    assert len(notes) == 1


def test_a_process_that_ends_without_a_word() -> None:
    made, _ = prepare("silent")
    assert made.failures["silent"].exit_code == 9
    assert "ended with 9" in made.failures["silent"].message
