"""How to serve the released checkpoints of each family: cards, commands, a call, what shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matrix import MatrixError
from matrix.released import Claims
from matrix.resolving import Answer, resolve
from matrix.schema import Family, Released
from reports.site import serving
from reports.support import Support


@dataclass(frozen=True)
class Row:
    """One checkpoint: devices by hardware, or an empty text where a rule speaks against it."""

    released: Released
    cards: Sequence[str]


@dataclass(frozen=True)
class Guide:
    """How to serve one family.

    Attributes:
        family: the family.
        stand_in: the model that is run here for it; empty if none is.
        answer: what to install and to run for an example; None where nothing takes it.
        client: a request by curl, for the example.
        rows: every checkpoint.
        ran: what the newest passed runs of the stand-in started.
    """

    family: Family
    stand_in: str
    answer: Answer | None
    client: str
    rows: Sequence[Row]
    ran: Sequence[serving.Step]


def guides(support: Support) -> list[Guide]:
    """Return a guide for each family."""
    claims = Claims(support.matrix)
    return [_guide(support, claims, family) for family in support.matrix.families.values()]


def _guide(support: Support, claims: Claims, family: Family) -> Guide:
    stand_in = support.matrix.models.get(family.stand_in or "")
    answer = _example(support, claims, family)
    client = serving.client(answer.question.model, family.checkpoints[0].repo)[0] if answer else ""
    ran: Sequence[serving.Step] = ()
    if stand_in is not None:
        cells = [c for c in support.cells.values() if c.model.name == stand_in.name]
        ran = [step for step in serving.steps(support, cells) if step.commands]
    return Guide(
        family=family,
        stand_in=stand_in.name if stand_in else "",
        answer=answer,
        client=client,
        rows=[Row(c, _cards(support, claims, c)) for c in family.checkpoints],
        ran=ran,
    )


def _example(support: Support, claims: Claims, family: Family) -> Answer | None:
    """Return how to serve the first checkpoint on the first hardware that takes it."""
    for hardware in claims.ranges:
        try:
            return resolve(support.matrix, family.checkpoints[0].name, hardware, claims=claims)
        except MatrixError:
            continue
    return None


def _cards(support: Support, claims: Claims, checkpoint: Released) -> list[str]:
    """Return the devices that a checkpoint needs on each hardware, empty where it has no place."""
    model = claims.models[checkpoint.name]
    feature = next(f for f in support.matrix.features.values() if model.task in f.applies_to)
    cann = support.matrix.cann[support.matrix.release.stable_cann]
    found = []
    for hardware in claims.ranges.values():
        claim = claims.of(model, feature, cann, hardware)
        found.append("" if claim.cell.unsupported else str(claim.cards))
    return found
