"""Cells: every combination of model, feature, CANN version and hardware, under the rules."""

from __future__ import annotations

from dataclasses import dataclass

from matrix.claims import Matrix
from matrix.errors import InvalidData
from matrix.ruling import Ruling, claimed
from matrix.schema import CannVersion, Feature, Hardware, Model, PairRule, Rule


@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One claim: this feature works for this model with this CANN version on this hardware."""

    model: Model
    feature: Feature
    cann: CannVersion
    hardware: Hardware
    unsupported: Rule | PairRule | None = None

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
    ruling = Ruling(matrix)
    places = [
        (cann, hardware, ruling.places(cann, hardware))
        for cann in matrix.cann.values()
        for hardware in matrix.hardware.values()
    ]
    cells: list[Cell] = []
    for model in matrix.models.values():
        for feature in matrix.features.values():
            claims, explained = ruling.claims(model, feature), _explained(model, feature)
            for cann, hardware, held in places:
                rule = ruling.rule(claims & held)
                cells.append(Cell(model, feature, cann, hardware, rule))
                if rule is None and not explained:
                    raise _unexplained(cells[-1])
    return cells


def _explained(model: Model, feature: Feature) -> bool:
    """Whether nothing speaks against a cell that no rule excludes."""
    return (
        model.task in feature.applies_to
        and claimed(model, feature)
        and model.checkpoint.kind != "none"
        and feature.body is not None
    )


def _unexplained(cell: Cell) -> InvalidData:
    if not claimed(cell.model, cell.feature):
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
    if cell.feature.body is None:
        return InvalidData(
            f"rules.yaml: no rule explains why {cell.id} is not supported.",
            "The feature has no body (body: null), so that nothing could show that it works.",
            f"Add a rule with `when: {{feature: [{cell.feature.name}]}}` and a reason.",
        )
    return InvalidData(
        f"rules.yaml: no rule explains why {cell.id} is not supported.",
        f"The feature {cell.feature.name!r} applies to {', '.join(cell.feature.applies_to)}, "
        f"and the model's task is {cell.model.task}.",
        "Add a rule with `when: {task: [...], applies: false}` and a reason.",
    )
