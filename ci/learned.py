"""The map from code to cells: what each cell was seen to run, kept in results/learned.json.

An entry says which functions of which files a cell ran, each with the hash that it had then, and
which operators it launched. It speaks for a revision only where all of those functions still have
these hashes: then the cell takes the same way through the code. One that no longer does is stale,
and the cell counts as affected by everything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci import functions
from ci.errors import UsageError

FILE = Path("results/learned.json")
"""Where the map is kept, relative to the checkout."""

SCHEMA = 1
"""Raised when entries change their meaning."""

TRACED = ("plugin/vllm_ascend", "tests/e2e")
"""Folders whose Python is traced: the plugin, and the bodies of cells."""

Unit = tuple[str, str]
"""A path, and a function in it."""


@dataclass(frozen=True)
class Entry:
    """What one cell ran.

    Attributes:
        commit: of the checkout when it was learned.
        day: when, as an ISO date.
        units: path and function to the function's hash.
        operators: names of operators that the device launched.
    """

    commit: str
    day: str
    units: Mapping[Unit, str]
    operators: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Learned:
    """The whole map."""

    cells: Mapping[str, Entry] = field(default_factory=dict)

    def running(self, unit: Unit) -> list[str]:
        """The cells that ran a function."""
        return [cell for cell, entry in self.cells.items() if unit in entry.units]

    def launching(self, operators: Iterable[str]) -> list[str]:
        """The cells that launched one of these operators."""
        wanted = set(operators)
        return [cell for cell, entry in self.cells.items() if entry.operators & wanted]

    def newest(self, other: Learned) -> Learned:
        """Both maps in one; of a cell that both know the entry that was learned later."""
        later = {
            cell: entry
            for cell, entry in other.cells.items()
            if cell not in self.cells or entry.day >= self.cells[cell].day
        }
        return self.updated(later)

    def updated(self, entries: Mapping[str, Entry]) -> Learned:
        """The same map with newer entries."""
        return Learned({**self.cells, **entries})


def entry(ran: Mapping[str, Any], root: Path, commit: str, day: str) -> Entry:
    """The entry of a cell from what `ci.tracing` left, for the sources as they lie there."""
    units: dict[Unit, str] = {}
    for path, lines in ran["lines"].items():
        source = (root / path).read_text(encoding="utf-8")
        hashes = functions.hashes(source)
        units |= {(path, name): hashes[name] for name in functions.executed(source, lines)}
    return Entry(commit, day, units, frozenset(ran["operators"]))


def load(path: Path) -> Learned:
    """The map of a file; an empty one where there is none.

    Raises:
        UsageError: The file is no map that this version can read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']}, not {SCHEMA}")
        names = [tuple(text.rsplit(" ", 2)) for text in document["units"]]
        return Learned({cell: _entry(told, names) for cell, told in document["cells"].items()})
    except FileNotFoundError:
        return Learned()
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"{path}: this is no map of what cells run: {error}",
            "it was cut, edited by hand, or written by another version",
            "remove it, and learn anew: `nox -s e2e -- --learn --select pr`",
        ) from error


def _entry(told: Mapping[str, Any], names: list[tuple[str, ...]]) -> Entry:
    found = [names[number] for number in told["units"]]
    units = {(path, name): hash_ for path, name, hash_ in found}
    return Entry(told["commit"], told["day"], units, frozenset(told["operators"]))


def merge(folder: Path, path: Path) -> tuple[Learned, list[UsageError]]:
    """Adds every map below a folder to the one at `path`, which is written if there is any.

    Returns:
        The whole map, and an error for each file that is none; the others are taken all the same.

    Raises:
        UsageError: The map at `path` cannot be read, or not be written.
    """
    whole, problems = load(path), []
    for file in sorted(folder.rglob("*.json")):
        try:
            whole = whole.newest(load(file))
        except UsageError as error:
            problems.append(error)
    if whole.cells:
        save(whole, path)
    return whole, problems


def save(learned: Learned, path: Path) -> None:
    """Writes a map in one step; functions that many cells ran are written once.

    Raises:
        UsageError: The file cannot be written.
    """
    numbers: dict[str, int] = {}
    cells = {
        cell: {
            "commit": entry.commit,
            "day": entry.day,
            "units": sorted(
                numbers.setdefault(f"{unit[0]} {unit[1]} {hash_}", len(numbers))
                for unit, hash_ in entry.units.items()
            ),
            "operators": sorted(entry.operators),
        }
        for cell, entry in sorted(learned.cells.items())
    }
    document = {"schema": SCHEMA, "units": list(numbers), "cells": cells}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}",
            "the folder may not be written, or the disk is full",
            "name a file elsewhere with --map; the records of the run are in the store",
        ) from error
