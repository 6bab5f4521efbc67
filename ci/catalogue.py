"""The runner catalogue: which machines GitHub's jobs can run on, read from ``ci/runners.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from ci.errors import UsageError
from matrix import Cell
from matrix.documents import Document
from matrix.errors import did_you_mean
from matrix.schema import Evidence, Name, Strict

FILE = Path(__file__).with_name("runners.yaml")
"""The catalogue of this repository."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A label of a runner: no space or comma, which some of GitHub's forms would split at."""


class Runner(Strict):
    """A sort of machine that jobs run on."""

    name: Name
    title: str
    hosted: bool = Field(description="Whether GitHub provides it; others are registered by us.")
    labels: tuple[Label, ...] = Field(min_length=1, description="What `runs-on` asks for.")
    evidence: Evidence = Field(description="What a run there is evidence of.")
    chips: tuple[str, ...] = Field(min_length=1, description="Chips, as torch_npu reports them.")
    cann: tuple[str, ...] | None = Field(
        default=None, description="CANN versions that it has; left out where any can be had."
    )
    cards: int = Field(ge=1, description="NPUs that one job may use.")
    image: str = Field(default="", description="Container image of its jobs; empty for none.")
    setup_minutes: int = Field(ge=1, description="Longest set-up of a job before its cells start.")
    max_minutes: int = Field(ge=2, description="Longest job; GitHub ends hosted ones at 360.")
    parallel: int = Field(ge=1, description="Jobs at a time.")

    @model_validator(mode="after")
    def _marked(self) -> Runner:
        if self.hosted == ("self-hosted" in self.labels):
            raise ValueError("the label 'self-hosted' belongs to runners with `hosted: false`")
        if self.setup_minutes >= self.max_minutes:
            raise ValueError("max_minutes leaves no time after setup_minutes")
        return self

    def takes(self, cell: Cell) -> bool:
        """Whether a cell can run there."""
        return (
            cell.hardware.soc in self.chips
            and (self.cann is None or cell.cann.version in self.cann)
            and cell.feature.cards <= self.cards
        )


class Catalogue(Strict):
    """The shape of ci/runners.yaml."""

    runners: tuple[Runner, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Catalogue:
        for key in ("name", "labels"):
            values = [getattr(runner, key) for runner in self.runners]
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"two runners have the same {key}: {twice[0]}")
        return self

    @property
    def names(self) -> list[str]:
        """The names in the catalogue's order."""
        return [runner.name for runner in self.runners]


def load(file: Path = FILE) -> Catalogue:
    """Reads and checks the catalogue.

    Raises:
        matrix.errors.InvalidData: It is missing, or does not fit the schema; names file and line.
    """
    return Document(file, Catalogue).content


def named(catalogue: Catalogue, name: str) -> Runner:
    """The runner of a name.

    Raises:
        UsageError: The catalogue has none of that name.
    """
    for runner in catalogue.runners:
        if runner.name == name:
            return runner
    raise UsageError(
        f"the runner catalogue has no {name!r}",
        did_you_mean(name, catalogue.names),
        "see ci/runners.yaml, or add the runner there",
    )
