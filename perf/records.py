"""Makes the record of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from matrix import Cell
from perf.trees import Tree
from perf.verdicts import PHASES, Finding, flatten, overall
from reports import places, provenance
from reports.record import Chip, Metric, Record, Versions


def make(
    cell: Cell,
    trees: tuple[Tree, Tree],
    findings: Sequence[Finding],
    about: Mapping[str, Any],
    started: datetime,
    seconds: float,
    logs: Sequence[str],
) -> Record:
    """Return the record of a cell that was compared.

    Args:
        cell: the cell.
        trees: base and head.
        findings: one per batch size.
        about: what the head's process said of itself.
        started: when the comparison of this cell began.
        seconds: how long it took.
        logs: the logs of both processes.
    """
    verdict = overall(findings)
    reasons = [f"batch {f.batch}: {reason}" for f in findings for reason in f.reasons]
    launches = sum(flatten(f.head[0]["decode"])["launches", "total"] for f in findings)
    return Record(
        cell=cell.id,
        kind="perf",
        verdict=verdict,
        evidence="simulated",
        versions=versions(cell, trees[1]),
        hardware=Chip(chip=cell.hardware.soc, cards=cell.feature.cards),
        runner="simulated",
        started=started,
        seconds=seconds,
        metrics={name: metric for f in findings for name, metric in metrics(f).items()},
        proof={
            **{key: about[key] for key in ("platform", "weights_on", "layers", "prefix_caching")},
            "async_scheduling": about["async_scheduling"],
            "decode_launches": launches,
            "base": side(trees[0]),
            "head": side(trees[1]),
        },
        samples=tuple(sample for f in findings for sample in samples(f)),
        error=provenance.failure("GateFailed", "\n".join(reasons)) if reasons else None,
        artifacts=tuple(map(places.relative, logs)),
    )


def make_error(
    cell: Cell,
    trees: tuple[Tree, Tree],
    error: Exception,
    started: datetime,
    seconds: float,
    logs: Sequence[str],
) -> Record:
    """Return the record of a comparison that could not be made."""
    return Record(
        cell=cell.id,
        kind="perf",
        verdict="error",
        evidence="simulated",
        versions=versions(cell, trees[1]),
        hardware=Chip(chip=cell.hardware.soc, cards=cell.feature.cards),
        runner="simulated",
        started=started,
        seconds=seconds,
        proof={"base": side(trees[0]), "head": side(trees[1])},
        error=provenance.failure(type(error).__name__, str(error)),
        artifacts=tuple(map(places.relative, logs)),
    )


def metrics(finding: Finding) -> dict[str, Metric]:
    """Return the head's figures per decode step, and its time against the base's."""
    decode = finding.head[0]["decode"]
    steps = max(int(decode["engine"]["steps"]), 1)
    flat = flatten(decode)
    units = {
        "launches": "launches/step",
        "launch_bytes": "bytes/step",
        "copies": "copies/step",
        "copy_bytes": "bytes/step",
        "synchronizations": "synchronizations/step",
        "events": "events/step",
        "allocations": "allocations/step",
    }
    values = {group: (flat.get((group, "total"), 0) / steps, unit) for group, unit in units.items()}
    values["peak_memory"] = (float(finding.head[0]["peak_memory"]), "bytes")
    values["changed_counters"] = (float(len(finding.changes)), "counters")
    seconds = [run["seconds_per_step"] for run in finding.head]
    values["seconds_per_step"] = (sum(seconds) / len(seconds), "s")
    ratio = finding.ratio
    values["time_ratio"] = (ratio.mean, "head/base")
    if not math.isnan(ratio.low):
        values["time_ratio_low"] = (ratio.low, "head/base")
        values["time_ratio_high"] = (ratio.high, "head/base")
    return {
        f"batch-{finding.batch}/{name}": Metric(value=value, unit=unit)
        for name, (value, unit) in values.items()
    }


def samples(finding: Finding) -> list[dict[str, Any]]:
    """Return the times of each pair, the head's counters per phase, and each change."""
    made: list[dict[str, Any]] = [
        {
            "batch": finding.batch,
            "pair": number,
            "base_seconds_per_step": base["seconds_per_step"],
            "head_seconds_per_step": head["seconds_per_step"],
        }
        for number, (base, head) in enumerate(zip(finding.base, finding.head, strict=True))
    ]
    made += [{"batch": finding.batch, "phase": p, "head": finding.head[0][p]} for p in PHASES]
    made += [{"batch": finding.batch, "change": change.as_json()} for change in finding.changes]
    return made


def versions(cell: Cell, head: Tree) -> Versions:
    """Return the versions of everything; commit and changes are those of the head."""
    return provenance.installed(cell.cann.version, head.commit, head.dirty, simulated=True)


def side(tree: Tree) -> dict[str, Any]:
    """Return what a side was, without the paths of this machine."""
    return {
        "label": tree.label,
        "commit": tree.commit,
        "dirty": tree.dirty,
        "simulator": "own build" if tree.simulator else "installed",
    }
