"""The one document that the matrix page is made of: the state of every cell, one letter each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from matrix import Cell
from matrix.schema import Combination
from reports.record import Kind, Record
from reports.site import text
from reports.statuses import KINDS, SYMBOLS, Status
from reports.support import DISCLAIMER, Support

SCHEMA = 1
"""The version of the document's shape."""

LETTERS: Mapping[str, str] = {
    "passed": "p",
    "failed": "f",
    "error": "e",
    "inconclusive": "i",
    "expected-failure": "x",
    "never-run": "n",
    "unsupported": "u",
    "n/a": "a",
}
"""A letter per state; a stale cell has the capital letter of the verdict that it had."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
OLDEST = 36**2 - 1
"""The greatest age in days that the document tells; what is older has this one."""

_UNKNOWN = 200  # cells that the matrix does not know, and are named
_NAME = 200  # characters of a title


def document(support: Support) -> dict[str, Any]:
    """Return everything that the matrix page shows before a cell is opened.

    `slices` has for each hardware and CANN version, as `a2/9.1.0`, and kind of runs a string
    `states` with one letter per model and feature (model by model), `ages` with two digits to the
    base 36 per cell that has a record, in that order (days since the run), and `hardware`, the
    places in `states` whose record is from a real NPU. `pairs` has for each cell of two features
    their places and the model's, hardware, CANN version, a letter for each kind of runs, the age of
    the newest end-to-end run (null without one) and 1 if that was on a real NPU.
    """
    cells = support.cells.values()
    single = [cell for cell in cells if not isinstance(cell.feature, Combination)]
    return {
        "schema": SCHEMA,
        "generated": support.now.isoformat(timespec="seconds"),
        "note": "" if support.on_hardware else DISCLAIMER,
        "max_age_days": support.policy.max_age / timedelta(days=1),
        "release": support.matrix.release.model_dump(mode="json"),
        "letters": LETTERS,
        "symbols": SYMBOLS,
        "kinds": list(KINDS),
        "counts": {kind: support.numbers(kind) for kind in KINDS},
        "models": [
            {
                "name": model.name,
                "title": text.start(model.title, _NAME),
                "family": model.family,
                "task": model.task,
                "stand_in": model.stand_in,
            }
            for model in support.matrix.models.values()
        ],
        "features": [
            {"name": feature.name, "title": text.start(feature.title, _NAME)}
            for feature in support.matrix.features.values()
        ],
        "cann": [{"version": c.version, "status": c.status} for c in _newest_first(support)],
        "hardware": [
            {"name": h.name, "title": h.title, "soc": h.soc}
            for h in support.matrix.hardware.values()
        ],
        "slices": dict(_slices(support, single)),
        "pairs": list(_pairs(support)),
        "unknown": _unknown(support),
    }


def letter(status: Status) -> str:
    """Return the letter of a status."""
    if not status.applicable:
        return LETTERS["n/a"]
    if status.state == "stale" and status.record:
        return LETTERS[status.record.verdict].upper()
    return LETTERS[status.state]


def base36(number: int, width: int) -> str:
    """Return a number of days or the like as so many digits, the nearest that fits."""
    number = min(max(number, 0), 36**width - 1)
    found = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        found = _DIGITS[digit] + found
    return found


def age(record: Record, now: datetime) -> int:
    """Return how many days ago a run started; a clock that is ahead gives 0."""
    return min(max((now - record.started).days, 0), OLDEST)


def _newest_first(support: Support) -> list[Any]:
    return list(reversed(support.matrix.cann.values()))


def _slices(support: Support, cells: Sequence[Cell]) -> Iterator[tuple[str, Any]]:
    arranged: dict[str, list[str]] = {
        f"{hardware}/{cann}": []
        for hardware in support.matrix.hardware
        for cann in support.matrix.cann
    }
    # `expand` goes model by model and feature by feature, so each slice is in that order.
    for cell in cells:
        arranged[f"{cell.hardware.name}/{cell.cann.version}"].append(cell.id)
    for name, ids in arranged.items():
        yield name, {kind: _slice(support, kind, ids) for kind in KINDS}


def _slice(support: Support, kind: Kind, ids: Sequence[str]) -> dict[str, Any]:
    known = [support.marks[kind][cell] for cell in ids]
    found = {
        "states": "".join(letter(status) for status in known),
        "ages": "".join(base36(age(s.record, support.now), 2) for s in known if s.record),
    }
    real = [place for place, status in enumerate(known) if status.evidence == "hardware"]
    return {**found, "hardware": real} if real else found


def _pairs(support: Support) -> Iterator[list[Any]]:
    models = {name: place for place, name in enumerate(support.matrix.models)}
    features = {name: place for place, name in enumerate(support.matrix.features)}
    for cell_id, cell in support.cells.items():
        if not isinstance(cell.feature, Combination):
            continue
        letters = "".join(letter(support.marks[kind][cell_id]) for kind in KINDS)
        status = support.marks["e2e"][cell_id]
        yield [
            *sorted(features[part.name] for part in cell.feature.parts),
            models[cell.model.name],
            cell.hardware.name,
            cell.cann.version,
            letters,
            age(status.record, support.now) if status.record else None,
            int(status.evidence == "hardware"),
        ]


def _unknown(support: Support) -> list[dict[str, Any]]:
    """Return the cells of records that the matrix does not have, with how many there are."""
    strange = sorted(cell for cell in support.history if cell not in support.cells)
    return [
        {
            "cell": text.start(cell, _NAME),
            "records": len(support.history[cell]),
            "newest": support.history[cell][0].started.isoformat(timespec="minutes"),
        }
        for cell in strange[:_UNKNOWN]
    ]
