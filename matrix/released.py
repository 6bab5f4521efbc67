"""Claims beyond the cells that are run: released checkpoints, and ranges that share a chip.

A claim has the id of a cell, `qwen3-32b/lora/cann-9.1.0/a2`, and is under the same rules. What
speaks for it is told apart: the cells of the stand-in of its architecture, of a model that shows
the feature, of another range with the same chip. None of these is evidence of the checkpoint
itself; only a run on its own weights would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Literal

from matrix.cells import Cell
from matrix.claims import Matrix
from matrix.errors import UnknownPattern, did_you_mean
from matrix.ruling import Ruling, matcher
from matrix.schema import (
    WEIGHT_BYTES,
    CannVersion,
    Family,
    Feature,
    Hardware,
    Model,
    QuantisedForm,
    QuantisedStandInCheckpoint,
    Released,
    ReleasedCheckpoint,
    Rule,
)

WEIGHTS_SHARE = 0.7
"""Share of a device's memory that weights may fill; vLLM takes 0.9, and the rest is KV cache and
activations. A rule of thumb of this project."""


@dataclass(frozen=True, slots=True)
class Showing:
    """A cell whose records speak for a claim, and for what of it."""

    cell: str
    shows: Literal["architecture and feature", "architecture", "feature"]
    same_chip: bool
    """Whether the claim is about another range, with the same chip."""

    def __str__(self) -> str:
        model, *_, hardware = self.cell.split("/")
        chip = f", on {hardware}, which has the same chip" if self.same_chip else ""
        return f"{self.shows} shown on {model}{chip} ({self.cell})"


@dataclass(frozen=True, slots=True)
class Claim:
    """A cell that is not run here, and what speaks for it.

    Attributes:
        released: the checkpoint; None for a stand-in on a range that shares a chip.
        cards: devices that its weights need there; more than one machine has, if it is so large.
    """

    cell: Cell
    released: Released | None
    cards: int
    shown_by: tuple[Showing, ...]


class Claims:
    """Every claim of a matrix, made when it is asked for."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.families = {c.name: f for f in matrix.families.values() for c in f.checkpoints}
        self.released = {c.name: c for f in matrix.families.values() for c in f.checkpoints}
        self.models = {
            name: _model(self.families[name], c, matrix) for name, c in self.released.items()
        }
        self.ranges = matrix.hardware | matrix.sharing
        self._ruling = Ruling(matrix, self.models)
        self._cells: dict[tuple[str, ...], str | None] = {}
        self._first: dict[tuple[object, ...], str | None] = {}

    def __iter__(self) -> Iterator[Claim]:
        """Yield every claim: checkpoints on all ranges, then the others on those that share."""
        yield from self._over(list(self.models.values()), list(self.ranges.values()))
        yield from self._over(list(self.matrix.models.values()), list(self.matrix.sharing.values()))

    def matching(self, patterns: Sequence[str]) -> list[Claim]:
        """Return the claims whose id any of the fnmatch patterns matches.

        Raises:
            UnknownPattern: a pattern matches none.
        """
        found = []
        for pattern in patterns:
            part, _, _ = pattern.partition("/")
            own = [m for name, m in self.models.items() if matcher(part)(name)]
            rest = [m for name, m in self.matrix.models.items() if matcher(part)(name)]
            over = [
                *self._over(own, list(self.ranges.values())),
                *self._over(rest, list(self.matrix.sharing.values())),
            ]
            chosen = [claim for claim in over if matcher(pattern)(claim.cell.id)]
            if not chosen:
                raise UnknownPattern(
                    f"The pattern {pattern!r} matches no claim about a released checkpoint.",
                    did_you_mean(part, self.models),
                )
            found += chosen
        return list({claim.cell.id: claim for claim in found}.values())

    def of(
        self,
        model: Model,
        feature: Feature,
        cann: CannVersion,
        hardware: Hardware,
        form: QuantisedForm | None = None,
    ) -> Claim:
        """Return the claim of this combination, for the weights first released or for a form."""
        released = self.released.get(model.name)
        cards = self.cards(model.name, hardware, form.scheme if form else None)
        if form is not None:
            model = self._in_form(model, form)
        rule = self.rule(model, feature, cann, hardware, cards)
        return self._claim(Cell(model, feature, cann, hardware, rule), released, cards)

    def _claim(self, cell: Cell, released: Released | None, cards: int) -> Claim:
        return Claim(cell, released, cards, () if cell.unsupported else self._shown_by(cell))

    def _in_form(self, model: Model, form: QuantisedForm) -> Model:
        """Return a model whose first weights are those of a form; rules see its scheme."""
        assert isinstance(model.checkpoint, ReleasedCheckpoint)
        update = {"native": form.scheme, "forms": (form,)}
        return model.model_copy(update={"checkpoint": model.checkpoint.model_copy(update=update)})

    def rule(
        self,
        model: Model,
        feature: Feature,
        cann: CannVersion,
        hardware: Hardware,
        cards: int = 1,
    ) -> Rule | None:
        """Return the rule that speaks against a combination, or None."""
        held = self._ruling.claims(model, feature) & self._ruling.places(cann, hardware)
        return self._ruling.rule(held & self._asked(cards))

    def _asked(self, cards: int) -> int:
        """Return the mask of the rules that speak of so many devices."""
        return ~self._ruling.of_several_cards if cards == 1 else -1

    def cards(self, model: str, hardware: Hardware, scheme: str | None = None) -> int:
        """Return how many devices the weights need: as a source says, or by their size.

        Args:
            model: a released checkpoint; anything else needs one.
            hardware: where.
            scheme: of quantised weights; by default those that were released first.
        """
        checkpoint = self.released.get(model)
        if checkpoint is None:
            return 1
        said = checkpoint.cards.get(hardware.name) or checkpoint.cards.get(
            hardware.same_chip_as or hardware.name
        )
        if said and scheme is None:
            return said
        size = gibibytes(checkpoint, scheme)
        if size is None:
            return hardware.cards  # of unknown size: a whole machine
        needed = size / (hardware.memory_gib * WEIGHTS_SHARE)
        return 1 << (max(1, ceil(needed)) - 1).bit_length()

    def _over(self, models: Sequence[Model], ranges: Sequence[Hardware]) -> Iterator[Claim]:
        # What holds for a model, a feature or a place is asked once, not for each combination.
        ruling = self._ruling
        places = [(c, h, ruling.places(c, h)) for c in self.matrix.cann.values() for h in ranges]
        for model in models:
            released = self.released.get(model.name)
            cards = {there.name: self.cards(model.name, there) for there in ranges}
            asked = {name: self._asked(number) for name, number in cards.items()}
            for feature in self.matrix.features.values():
                claims = ruling.claims(model, feature)
                for cann, hardware, held in places:
                    rule = ruling.rule(claims & held & asked[hardware.name])
                    cell = Cell(model, feature, cann, hardware, rule)
                    yield self._claim(cell, released, cards[hardware.name])

    def _shown_by(self, claim: Cell) -> tuple[Showing, ...]:
        model, feature, cann = claim.model, claim.feature, claim.cann
        there = self.matrix.hardware[claim.hardware.same_chip_as or claim.hardware.name]
        same_chip = there is not claim.hardware
        own = model.shown_on or (None if model.released else model.name)
        if own and (cell := self._supported(own, feature, cann, there)):
            return (Showing(cell, "architecture and feature", same_chip),)
        first = self._first_feature(model)
        parts = []
        if own and (cell := self._supported(own, first, cann, there)):
            parts.append(Showing(cell, "architecture", same_chip))
        if cell := self._elsewhere(model, feature, cann, there):
            parts.append(Showing(cell, "feature", same_chip))
        return tuple(parts)

    def _supported(
        self, name: str, feature: Feature, cann: CannVersion, there: Hardware
    ) -> str | None:
        """Return the id of a stand-in's cell, or None where a rule speaks against it."""
        key = name, feature.name, cann.version, there.name
        if key not in self._cells:
            stand_in = self.matrix.models[name]
            against = self.rule(stand_in, feature, cann, there)
            self._cells[key] = None if against else Cell(stand_in, feature, cann, there).id
        return self._cells[key]

    def _elsewhere(
        self, model: Model, feature: Feature, cann: CannVersion, there: Hardware
    ) -> str | None:
        """Return the nearest cell of another model that shows a feature of this one, or None.

        Checkpoints of one family with the same forms have the same answer.
        """
        own = _forms(model) if isinstance(model.checkpoint, ReleasedCheckpoint) else model.name
        key = model.family, own, feature.name, cann.version, there.name
        if key not in self._first:
            others = (name for name in self._by_family[model.family] if self._alike(model, name))
            cells = (self._supported(name, feature, cann, there) for name in others)
            self._first[key] = next(filter(None, cells), None)
        return self._first[key]

    def _alike(self, model: Model, name: str) -> bool:
        """Whether a feature that is shown on another model says something of this one.

        For quantised weights it does where scheme and format are those of one of its forms.
        """
        other = self.matrix.models[name].checkpoint
        if not isinstance(other, QuantisedStandInCheckpoint):
            return name != model.name
        return (other.quantisation.scheme, other.quantisation.format) in _forms(model)

    def _first_feature(self, model: Model) -> Feature:
        return next(f for f in self.matrix.features.values() if model.task in f.applies_to)

    @cached_property
    def _by_family(self) -> dict[str, list[str]]:
        """Family to the names of all models, its own first."""
        families = {m.family for m in (*self.models.values(), *self.matrix.models.values())}
        return {
            family: sorted(
                self.matrix.models, key=lambda name: self.matrix.models[name].family != family
            )
            for family in families
        }


def _forms(model: Model) -> frozenset[tuple[str, str]]:
    """Return scheme and format of all quantised weights that were released of a checkpoint."""
    own = model.checkpoint
    forms = own.forms if isinstance(own, ReleasedCheckpoint) else ()
    return frozenset((form.scheme, form.format) for form in forms)


def gibibytes(checkpoint: Released, scheme: str | None = None) -> float | None:
    """Return the memory of a checkpoint's weights in GiB; None where its size is not known."""
    if checkpoint.billions is None:
        return None
    scheme = scheme or checkpoint.native
    per_weight = WEIGHT_BYTES[scheme[:2]] if scheme else 2.0
    return checkpoint.billions * 1e9 * per_weight / 2**30


def _model(family: Family, checkpoint: Released, matrix: Matrix) -> Model:
    """Return a released checkpoint in the form in which rules and cells know models."""
    stand_in = checkpoint.stand_in or family.stand_in
    return Model(
        name=checkpoint.name,
        title=checkpoint.repo.split("/")[1],
        family=matrix.models[stand_in].family if stand_in else family.name,
        description=family.title,
        task=checkpoint.task or family.task,
        architecture=family.architecture,
        represents=(checkpoint.repo,),
        notes=checkpoint.notes,
        checkpoint=ReleasedCheckpoint(
            kind="released",
            repo=checkpoint.repo,
            native=checkpoint.native,
            forms=checkpoint.forms,
        ),
        dtype="bfloat16",
        max_model_len=checkpoint.context,
        parameters=round(checkpoint.billions * 1e9) if checkpoint.billions else None,
        shown_on=stand_in,
    )
