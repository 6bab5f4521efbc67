"""What quantised models lose, as measured: one row a model, out of the records of their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matrix.schema import QuantisedStandInCheckpoint
from reports.record import Record
from reports.statuses import Status
from reports.support import DISCLAIMER, Support

FEATURE = "quantisation"
"""The feature whose records hold the errors."""

HEADER = (
    "Model",
    "Format",
    "Scheme",
    "Quantised",
    "Against the float model: mean / max (bound)",
    "Against the dequantised weights: mean / max (bound)",
    "Operators",
    "Passed on",
)


@dataclass(frozen=True)
class Loss:
    """Differences of one token's logprob, in nats: the worst of all cells, and what is allowed."""

    mean: float
    most: float
    bound: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} / {self.most:.3f} ({self.bound:g})"


@dataclass(frozen=True)
class Row:
    """What the cells of one quantised model measured.

    Attributes:
        layers: which parts of the model are quantised, in words.
        losses: against the float model, and against what codes and scales stand for.
        operators: what was launched for the quantised parts.
        places: hardware with the CANN versions on which it passed.
    """

    model: str
    format: str
    scheme: str
    layers: str
    losses: tuple[Loss, Loss]
    operators: tuple[str, ...]
    places: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row's text, by column."""
        operators = ", ".join(name.removeprefix("aclnn") for name in self.operators)
        loss, kernels = map(str, self.losses)
        return (
            self.model,
            self.format,
            self.scheme,
            self.layers,
            loss,
            kernels,
            operators,
            self.places,
        )


def rows(support: Support) -> list[Row]:
    """Return a row for each quantised model with a cell that passed, in the matrix's order."""
    passed: dict[str, list[Status]] = {}
    for status in support.marks["e2e"].values():
        tested, feature, *_ = status.cell.split("/")
        if feature == FEATURE and status.state == "passed" and status.record is not None:
            passed.setdefault(tested, []).append(status)
    made = []
    for name, model in support.matrix.models.items():
        checkpoint = model.checkpoint
        if name in passed and isinstance(checkpoint, QuantisedStandInCheckpoint):
            records = [status.record for status in passed[name] if status.record is not None]
            how = checkpoint.quantisation
            made.append(
                Row(
                    name,
                    how.format,
                    how.name,
                    _layers(records[-1]),
                    (_loss(records, "float"), _loss(records, "dequantised")),
                    tuple(sorted({key for r in records for key in r.proof if _operator(key)})),
                    _places(status.cell for status in passed[name]),
                )
            )
    return made


def render(support: Support) -> str:
    """Return the rows as a table of Markdown, with what the evidence is."""
    found = rows(support)
    if not found:
        return (
            "No cell of quantised models has passed on these versions; "
            "`nox -s e2e -- '*/quantisation/*'` runs them.\n"
        )
    lines = [_line(HEADER), _line(["---"] * len(HEADER)), *(_line(row.cells) for row in found)]
    said = [] if support.on_hardware else [f"{DISCLAIMER}\n"]
    return "\n".join([*said, *lines]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _operator(key: str) -> bool:
    return key.startswith("aclnn")


def _loss(records: Iterable[Record], against: str) -> Loss:
    """The greatest of each number among records."""
    found = [
        [r.metrics[f"{against}_difference_{part}"].value for part in ("mean", "max", "bound")]
        for r in records
    ]
    return Loss(*(max(column) for column in zip(*found, strict=True)))


def _layers(record: Record) -> str:
    counted = {
        "linear layers": record.proof.get("quantised_layers"),
        "mixtures of experts": record.proof.get("quantised_experts"),
    }
    parts = [f"{count} {what}" for what, count in counted.items() if count]
    if "cache_dtype" in record.proof:
        parts.append(f"KV cache in {record.proof['cache_dtype']}")
    return ", ".join(parts)


def _places(cells: Iterable[str]) -> str:
    """Hardware, each with its CANN versions, as in `a2 (9.0.0, 9.1.0)`."""
    versions: dict[str, list[str]] = {}
    for cell in cells:
        *_, cann, hardware = cell.split("/")
        versions.setdefault(hardware, []).append(cann.removeprefix("cann-"))
    return ", ".join(f"{hardware} ({', '.join(found)})" for hardware, found in versions.items())
