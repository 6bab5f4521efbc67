"""Cells: every combination of model, feature, CANN version and hardware, under the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from matrix.claims import Matrix
from matrix.errors import InvalidData
from matrix.schema import CannVersion, Feature, Hardware, Model, Release, Rule, VersionBound


@dataclass(frozen=True, eq=False)
class Cell:
    """One claim: this feature works for this model with this CANN version on this hardware."""

    model: Model
    feature: Feature
    cann: CannVersion
    hardware: Hardware
    unsupported: Rule | None = None

    @property
    def id(self) -> str:
        """The stable name, `<model>/<feature>/cann-<version>/<hardware>`."""
        return f"{self.model.name}/{self.feature.name}/{self.cann.name}/{self.hardware.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id


def expand(matrix: Matrix) -> list[Cell]:
    """Return every combination in the order of the files, the unsupported ones with their rule.

    Raises:
        InvalidData: a feature does not apply to a model's task and no rule gives the reason.
    """
    release = matrix.release
    cells = []
    for model in matrix.models.values():
        for feature in matrix.features.values():
            for cann in matrix.cann.values():
                for hardware in matrix.hardware.values():
                    cell = Cell(model, feature, cann, hardware)
                    rule = next((r for r in matrix.rules if holds(r, cell, release)), None)
                    if rule is None and not _explained(cell):
                        raise _unexplained(cell)
                    cells.append(Cell(model, feature, cann, hardware, rule))
    return cells


def holds(rule: Rule, cell: Cell, release: Release) -> bool:
    """Whether every condition of `rule` holds for `cell` in `release`."""
    when = rule.when
    named = (
        (when.model, cell.model.name),
        (when.family, cell.model.family),
        (when.task, cell.model.task),
        (when.feature, cell.feature.name),
        (when.cann, cell.cann.version),
        (when.hardware, cell.hardware.name),
    )
    if not all(patterns is None or _any(patterns, name) for patterns, name in named):
        return False
    applies = cell.model.task in cell.feature.applies_to
    if when.applies is not None and when.applies != applies:
        return False
    if when.quantised is not None and when.quantised != cell.model.quantised:
        return False
    if when.claimed is not None and when.claimed != _claimed(cell):
        return False
    return _within(rule, cell.cann.version, release)


def _claimed(cell: Cell) -> bool:
    return cell.model.features is None or cell.feature.name in cell.model.features


def _explained(cell: Cell) -> bool:
    """Whether nothing speaks against a cell that no rule excludes."""
    return (
        cell.model.task in cell.feature.applies_to
        and _claimed(cell)
        and cell.model.checkpoint.kind != "none"
    )


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _within(rule: Rule, cann: str, release: Release) -> bool:
    """Whether the versions of a cell lie from `since` on and before `until`."""
    versions = {"cann": cann, "plugin": release.plugin, "vllm": release.vllm}
    return _all(rule.since, versions, lambda have, bound: have >= bound) and _all(
        rule.until, versions, lambda have, bound: have < bound
    )


def _all(
    bound: VersionBound | None,
    versions: dict[str, str],
    compare: Callable[[Any, Any], bool],
) -> bool:
    if bound is None:
        return True
    from packaging.version import Version  # only rules with bounds pay for the import

    return all(
        compare(Version(versions[component]), Version(limit))
        for component, limit in bound.model_dump(exclude_none=True).items()
    )


def _unexplained(cell: Cell) -> InvalidData:
    if not _claimed(cell):
        return InvalidData(
            f"rules.yaml: no rule explains why {cell.id} is not claimed.",
            f"The model lists its features: {', '.join(cell.model.features or ())}.",
            "Add a rule with `when: {claimed: false}` and a reason.",
        )
    if cell.model.checkpoint.kind == "none":
        return InvalidData(
            f"rules.yaml: no rule explains why {cell.id} is not supported.",
            "The model has no checkpoint (kind: none), so that none of its cells can run.",
            f"Add a rule with `when: {{model: [{cell.model.name}]}}` and a reason.",
        )
    return InvalidData(
        f"rules.yaml: no rule explains why {cell.id} is not supported.",
        f"The feature {cell.feature.name!r} applies to {', '.join(cell.feature.applies_to)}, "
        f"and the model's task is {cell.model.task}.",
        "Add a rule with `when: {task: [...], applies: false}` and a reason.",
    )
