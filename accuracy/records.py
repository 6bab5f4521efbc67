"""Makes a record of an accuracy run, and reads baselines out of stored ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from accuracy.errors import MissingBaseline
from accuracy.gates import Change, Outcomes, Port, interval
from matrix import Cell
from reports import places
from reports.provenance import failure, versions
from reports.record import Chip, Metric, Record, Verdict

LATEST = "latest"
"""The word for the newest record that can be a baseline."""


def make(
    cell: Cell,
    measured: Mapping[str, Any],
    port: Port,
    change: Change | None,
    baseline: Record | None,
    started: datetime,
    seconds: float,
    log: Path,
    undecided: str | None = None,
) -> Record:
    """Return the record of a run that got as far as its gates.

    Args:
        cell: the cell.
        measured: what `accuracy.worker.run` returned.
        port: the port gate's findings.
        change: the change gate's, where there is a baseline.
        baseline: the record that was the baseline.
        started: when the run began.
        seconds: how long it took.
        log: the log of the engine's process.
        undecided: why the change gate could not judge, although there is a baseline.
    """
    where = measured["platform"]
    reasons = [f"port gate: {reason}" for reason in port.reasons]
    verdict: Verdict = port.verdict
    if where["platform"] != "npu" or where["weights_on"] != ["npu"]:
        verdict = "failed"
        reasons.append(f"the model did not run on an NPU but on {where['weights_on']}")
    if undecided is not None:
        reasons.append(f"change gate: {undecided}")
        verdict = "inconclusive" if verdict == "passed" else verdict
    if change is not None:
        reasons += [f"change gate: {reason}" for reason in change.reasons]
        if verdict == "passed":
            verdict = change.verdict
        elif change.verdict == "failed":
            verdict = "failed"
    return _record(
        cell,
        verdict,
        started,
        seconds,
        log,
        timings=measured["timings"],
        metrics={**port_metrics(port), **scores(measured), **change_metrics(change)},
        proof={**where, **gates(port, change, baseline)},
        samples=samples(measured),
        error=failure("GateFailed", "\n".join(reasons)) if reasons else None,
    )


def make_error(
    cell: Cell, error: Exception, log_tail: str, started: datetime, seconds: float, log: Path
) -> Record:
    """Return the record of a run that did not get as far as its gates."""
    told = failure(type(error).__name__, str(error), log_tail)
    return _record(cell, "error", started, seconds, log, error=told)


def _record(
    cell: Cell, verdict: Verdict, started: datetime, seconds: float, log: Path, **parts: Any
) -> Record:
    return Record(
        cell=cell.id,
        kind="accuracy",
        verdict=verdict,
        evidence="simulated",
        versions=versions(cell.cann.version, simulated=True),
        hardware=Chip(chip=cell.hardware.soc, cards=cell.feature.cards),
        runner="simulated",
        started=started,
        seconds=seconds,
        artifacts=(places.relative(log),),
        **parts,
    )


# -------------------------------------------------------------------------------- parts of a record


def scores(measured: Mapping[str, Any]) -> dict[str, Metric]:
    """Return each task's score with its 95 % interval and the number of items.

    Where transformers answered too, its score and the items that only one got right stand next
    to them.
    """
    found: dict[str, Metric] = {}
    for task, answers in measured.get("answers", {}).items():
        found |= _score(task, answers)
        theirs = measured.get("reference", {}).get(task)
        if theirs is not None:
            found |= _score(f"{task}/transformers", theirs)
            pairs = list(zip(answers, theirs, strict=True))
            only = sum(a["correct"] != b["correct"] for a, b in pairs)
            found[f"{task}/transformers/flips"] = Metric(value=only, unit="items")
    return found


def _score(name: str, answers: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    correct = sum(answer["correct"] for answer in answers)
    low, high = interval(correct, len(answers))
    values = {"score": correct / len(answers), "low": low, "high": high}
    made = {f"{name}/{part}": Metric(value=v, unit="share") for part, v in values.items()}
    return made | {f"{name}/items": Metric(value=len(answers), unit="items")}


def port_metrics(port: Port) -> dict[str, Metric]:
    """Return what the port gate measured; what is no number is left out, its reason tells it."""
    values = {
        "port/largest_difference": (port.largest, "nats"),
        "port/mean_divergence": (port.mean_divergence, "nats"),
        "port/top1_agreement": (port.agreement, "share"),
        "port/positions": (float(port.positions), "tokens"),
    }
    return {
        name: Metric(value=value, unit=unit)
        for name, (value, unit) in values.items()
        if value < float("inf")
    }


def change_metrics(change: Change | None) -> dict[str, Metric]:
    """Return what the change gate measured."""
    if change is None:
        return {}
    values = {
        "change/lost": (float(change.pooled.lost), "items"),
        "change/won": (float(change.pooled.won), "items"),
        "change/items": (float(change.pooled.items), "items"),
        "change/p": (change.pooled.p, "probability"),
        "change/drop_at_most": (change.at_most, "share"),
    }
    if change.detectable is not None:
        values["change/detectable_drop"] = (change.detectable, "share")
    return {name: Metric(value=value, unit=unit) for name, (value, unit) in values.items()}


def gates(port: Port, change: Change | None, baseline: Record | None) -> dict[str, Any]:
    """Return which gates judged the run, and where the first other choice was."""
    first = port.first_differing
    return {
        "gates": ["port"] if change is None else ["port", "change"],
        "first_differing": dict(first) if first else None,
        "baseline": baseline.id if baseline else None,
    }


def samples(measured: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return every answer with its task, and whether transformers was right where it was asked."""
    made = []
    for task, answers in measured.get("answers", {}).items():
        theirs = measured.get("reference", {}).get(task) or [None] * len(answers)
        for answer, other in zip(answers, theirs, strict=True):
            more = {} if other is None else {"transformers_correct": other["correct"]}
            made.append({"task": task, **answer, **more})
    return tuple(made)


# ---------------------------------------------------------------------------------------- baselines


def outcomes(record: Record) -> Outcomes:
    """Return a record's answers by task and item."""
    return {(str(s["task"]), str(s["hash"])): bool(s["correct"]) for s in record.samples}


def candidates(records: Iterable[Record], cell: str) -> list[Record]:
    """Return the records of a cell that can be its baseline: complete runs, oldest first."""
    return [
        record
        for record in records
        if record.cell == cell and record.kind == "accuracy"
        if record.verdict != "error" and record.samples
    ]


def choose(records: Sequence[Record], cell: str, name: str, store: str) -> Record:
    """Return the baseline of that name: a record's id, the beginning of one, or `latest`.

    `latest` is the newest that passed, so that a failed run does not become what is normal.

    Raises:
        MissingBaseline: there is none, or the name fits several.
    """
    own = candidates(records, cell)
    hint = f"`python -m accuracy baseline '{cell}'` lists what can be one."
    if name == LATEST:
        passed = [record for record in own if record.verdict == "passed"]
        if passed:
            return passed[-1]
        raise MissingBaseline(
            f"{cell}: there is no baseline: no run with answers has passed in {store}.",
            "This is the cell's first run, or --store names another store.",
            "Run it once without --baseline, then again with it.",
        )
    found = [record for record in own if record.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    elsewhere = next((record for record in records if record.id.startswith(name)), None)
    if found:
        why = f"{len(found)} records begin so: {', '.join(r.id for r in found[:4])}."
    elif elsewhere is None:
        why = f"No record of accuracy in {store} has that id."
    elif elsewhere.cell != cell:
        why = f"That record is of the cell {elsewhere.cell}."
    else:
        why = (
            f"That record has the verdict {elsewhere.verdict} and {len(elsewhere.samples)} answers."
        )
    raise MissingBaseline(f"{cell}: {name!r} is no baseline.", why, hint)


def describe(change: Change) -> dict[str, Any]:
    """Return what the change gate found, as plain data."""
    return asdict(change)
