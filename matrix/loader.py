"""Loads matrix/*.yaml as one checked whole: unique names, and every reference leads somewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from matrix import schema
from matrix.cells import Cell
from matrix.claims import Matrix
from matrix.combining import check_combinations, everything
from matrix.documents import Document, display
from matrix.errors import DuplicateName, InvalidData
from matrix.expecting import check_expected
from matrix.facts import check_facts, check_upstream, require
from matrix.selecting import check_selections

FILES: Mapping[str, type[BaseModel]] = {
    "models": schema.ModelsFile,
    "families": schema.FamiliesFile,
    "features": schema.FeaturesFile,
    "serving": schema.ServingFile,
    "cann": schema.CannFile,
    "hardware": schema.HardwareFile,
    "releases": schema.ReleasesFile,
    "torch_npu": schema.TorchNpuFile,
    "branches": schema.BranchesFile,
    "rules": schema.RulesFile,
    "expected": schema.ExpectedFile,
    "selections": schema.SelectionsFile,
    "accuracy": schema.AccuracyFile,
    "benchmarks": schema.BenchmarksFile,
}
"""File stem, which is also its top key, to the schema of the file.

Beside `<stem>.yaml` there may be a folder `<stem>` of files of the same shape, which are read after
it in the order of their names.
"""

_FOLDERS = ("models", "families")
"""Sorts that have a folder only."""

_NAMES = {"cann": "version", "torch_npu": "torch_npu", "serving": "feature"}
"""The key that names an entry, where it is not `name`."""


@dataclass
class _Entries:
    """The entries of one sort with the place where each was written."""

    found: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, document: Document[Any], key: str) -> None:
        for index, entry in enumerate(getattr(document.content, key)):
            name, place = getattr(entry, _NAMES.get(key, "name")), document.where((key, index))
            if name in self.found:
                raise DuplicateName(
                    f"{place}: {name!r} is already defined at {self.places[name]}.",
                    "A name becomes part of cell ids, so it can stand for one thing only.",
                    "Rename or remove one of the two.",
                )
            self.found[name], self.places[name] = entry, place


def load(root: Path | None = None, today: date | None = None) -> Matrix:
    """Read, validate and cross-check every YAML file of the matrix.

    Args:
        root: the folder with the YAML files; by default the one beside this module.
        today: the day on which an expected failure that has expired is an error; without it
            none is, so that tables can still be made, in which its cells are errors.

    Raises:
        InvalidData: a file is missing or does not fit its schema.
        Expired: an expected failure was not to be expected any longer.
        DuplicateName: two entries of one sort have the same name.
        UnknownReference: a rule, release or selection names something that does not exist.
    """
    root = root or Path(__file__).parent
    entries = {key: _Entries() for key in FILES}
    for key, model in FILES.items():
        for path in paths(root, key):
            entries[key].add(Document(path, model), key)
    pairs = Document(root / "combinations.yaml", schema.CombinationsFile)
    tables = Document(root / "upstream.yaml", schema.UpstreamFile)
    found: dict[str, dict[str, Any]] = {key: value.found for key, value in entries.items()}
    ranges = found.pop("hardware")
    matrix = Matrix(
        root=root,
        rules=tuple(found.pop("rules").values()),
        hardware={name: h for name, h in ranges.items() if h.same_chip_as is None},
        sharing={name: h for name, h in ranges.items() if h.same_chip_as is not None},
        policy=Document(root / "branches.yaml", schema.BranchesFile).content.policy,
        combinations=pairs.content.combinations,
        upstream=tables.content.upstream,
        **found,
    )
    places = {key: value.places for key, value in entries.items()}
    _check_rules(matrix, places["rules"])
    check_facts(matrix, places)
    check_upstream(matrix, tables)
    check_combinations(matrix, pairs.where(("combinations",)))
    cells = everything(matrix)
    check_selections(matrix, cells)
    _check_suites(matrix, cells, places["accuracy"])
    check_expected(matrix, cells, places["expected"], today)
    return matrix


def paths(root: Path, key: str) -> list[Path]:
    """Return the files of one sort: `<key>.yaml` where the sort has one, and its folder's."""
    single, several = root / f"{key}.yaml", sorted((root / key).glob("*.yaml"))
    if key in _FOLDERS and not several:
        raise InvalidData(
            f"{display(root / key)}: no file (*.yaml) is there.",
            "Either the folder is not that of a matrix, or its files were not checked out.",
        )
    return several if key in _FOLDERS else [single, *several]


def _check_rules(matrix: Matrix, places: Mapping[str, str]) -> None:
    families = {model.family for model in matrix.models.values()} | set(matrix.families)
    models = [*matrix.models, *(c.name for f in matrix.families.values() for c in f.checkpoints)]
    for rule in matrix.rules:
        axes: tuple[tuple[str, tuple[str, ...] | None, Iterable[str]], ...] = (
            ("model", rule.when.model, models),
            ("family", rule.when.family, families),
            ("feature", rule.when.feature, matrix.features),
            ("cann", rule.when.cann, matrix.cann),
            ("hardware", rule.when.hardware, matrix.hardware | matrix.sharing),
        )
        for axis, patterns, names in axes:
            for pattern in patterns or ():
                require(pattern, names, f"{places[rule.name]}.when.{axis}", axis)


def _check_suites(matrix: Matrix, cells: Sequence[Cell], places: Mapping[str, str]) -> None:
    ids = [cell.id for cell in cells]
    owners: dict[str, str] = {}
    for name, suite in matrix.accuracy.items():
        for pattern in suite.cells:
            require(pattern, ids, f"{places[name]}.cells", "cell")
        for id_ in ids:
            if not any(fnmatchcase(id_, pattern) for pattern in suite.cells):
                continue
            if id_ in owners:
                raise InvalidData(
                    f"{places[name]}.cells: {id_} belongs to the suite {owners[id_]!r} already.",
                    "A cell's accuracy is judged by one set of thresholds.",
                    "Narrow the patterns of one of the two.",
                )
            owners[id_] = name
