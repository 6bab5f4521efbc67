"""Loads matrix/*.yaml as one checked whole: unique names, and every reference leads somewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from matrix import schema
from matrix.cells import Cell
from matrix.claims import Matrix
from matrix.combining import check_combinations, everything
from matrix.documents import Document, display
from matrix.errors import DuplicateName, InvalidData, UnknownReference, did_you_mean
from matrix.selecting import check_selections

FILES: Mapping[str, type[BaseModel]] = {
    "features": schema.FeaturesFile,
    "cann": schema.CannFile,
    "hardware": schema.HardwareFile,
    "releases": schema.ReleasesFile,
    "rules": schema.RulesFile,
    "selections": schema.SelectionsFile,
    "accuracy": schema.AccuracyFile,
}
"""File stem, which is also its top key, to the schema of the file."""


@dataclass
class _Entries:
    """The entries of one sort with the place where each was written."""

    found: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, document: Document[Any], key: str, name_of: Callable[[Any], str]) -> None:
        for index, entry in enumerate(getattr(document.content, key)):
            name, place = name_of(entry), document.where((key, index))
            if name in self.found:
                raise DuplicateName(
                    f"{place}: {name!r} is already defined at {self.places[name]}.",
                    "A name becomes part of cell ids, so it can stand for one thing only.",
                    "Rename or remove one of the two.",
                )
            self.found[name], self.places[name] = entry, place


def load(root: Path | None = None) -> Matrix:
    """Read, validate and cross-check every YAML file of the matrix.

    Args:
        root: the folder with the YAML files; by default the one beside this module.

    Raises:
        InvalidData: a file is missing or does not fit its schema.
        DuplicateName: two entries of one sort have the same name.
        UnknownReference: a rule, release or selection names something that does not exist.
    """
    root = root or Path(__file__).parent
    entries = {key: _Entries() for key in ("models", *FILES)}
    paths = sorted((root / "models").glob("*.yaml"))
    if not paths:
        raise InvalidData(
            f"{display(root / 'models')}: no model file (*.yaml) is there.",
            "Either the folder is not that of a matrix, or its models were not checked out.",
        )
    for path in paths:
        entries["models"].add(Document(path, schema.ModelsFile), "models", lambda e: str(e.name))
    for key, model in FILES.items():
        name_of = (lambda e: str(e.version)) if key == "cann" else (lambda e: str(e.name))
        entries[key].add(Document(root / f"{key}.yaml", model), key, name_of)
    pairs = Document(root / "combinations.yaml", schema.CombinationsFile)
    found: dict[str, dict[str, Any]] = {key: value.found for key, value in entries.items()}
    found_rules = {"rules": tuple(found["rules"].values())}
    given = pairs.content.combinations
    matrix = Matrix(root=root, combinations=given, **{**found, **found_rules})  # type: ignore[arg-type]
    _check_releases(matrix, entries["releases"].places)
    _check_rules(matrix, entries["rules"].places)
    check_combinations(matrix, pairs.where(("combinations",)))
    cells = everything(matrix)
    check_selections(matrix, cells)
    _check_suites(matrix, cells, entries["accuracy"].places)
    return matrix


def _check_releases(matrix: Matrix, places: Mapping[str, str]) -> None:
    current = [name for name, r in matrix.releases.items() if r.status == "current"]
    if len(current) != 1:
        raise InvalidData(
            f"{display(matrix.root / 'releases.yaml')}: {len(current)} releases are current "
            f"({', '.join(current) or 'none'}); exactly one has to be.",
        )
    for name, release in matrix.releases.items():
        for version in release.cann:
            _require(version, matrix.cann, f"{places[name]}.cann", "CANN version")


def _check_rules(matrix: Matrix, places: Mapping[str, str]) -> None:
    families = {model.family for model in matrix.models.values()}
    for rule in matrix.rules:
        axes: tuple[tuple[str, tuple[str, ...] | None, Iterable[str]], ...] = (
            ("model", rule.when.model, matrix.models),
            ("family", rule.when.family, families),
            ("feature", rule.when.feature, matrix.features),
            ("cann", rule.when.cann, matrix.cann),
            ("hardware", rule.when.hardware, matrix.hardware),
        )
        for axis, patterns, names in axes:
            for pattern in patterns or ():
                _require(pattern, names, f"{places[rule.name]}.when.{axis}", axis)


def _check_suites(matrix: Matrix, cells: Sequence[Cell], places: Mapping[str, str]) -> None:
    ids = [cell.id for cell in cells]
    owners: dict[str, str] = {}
    for name, suite in matrix.accuracy.items():
        for pattern in suite.cells:
            _require(pattern, ids, f"{places[name]}.cells", "cell")
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


def _require(pattern: str, names: Iterable[str], place: str, sort: str) -> None:
    """Raise UnknownReference unless `pattern` matches one of `names`."""
    names = list(names)
    if not any(fnmatchcase(name, pattern) for name in names):
        raise UnknownReference(
            f"{place}: no {sort} is called, or matched by, {pattern!r}.",
            did_you_mean(pattern, names),
        )
