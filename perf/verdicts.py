"""Judges a comparison: counters exactly, the host's time by the interval of paired ratios."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from perf.statistics import Interval, interval_of

Verdict = Literal["passed", "failed", "inconclusive"]
Counters = Mapping[str, Mapping[str, Any]]

PHASES = ("prefill", "decode")

LEAST_STARTS = 3
"""Starts of both engines that it takes to say that the head is slower."""

BETTER_MORE = frozenset({"cached_prompt_tokens"})
"""Of these more is better; of everything else that is counted, less."""

TIMED = frozenset({"events"})
"""What is counted, stored and not compared: torch-npu's allocators record events for memory that
is still in use when it is freed, so that their number depends on how fast the device was."""

GROWING = frozenset({"allocations"})
"""What may differ once between runs of one side without a word: the allocator's pool grows when
memory is still in use by a slow step. It gets worse only where every run of the head has more."""

WORDS = {
    "launches": "launches of {name}",
    "launch_bytes": "operand bytes of {name}",
    "copies": "copies {name}",
    "copy_bytes": "bytes copied {name}",
    "synchronizations": "{name} synchronisations",
    "events": "events {name}",
    "allocations": "allocations on the {name}",
    "engine": "{name}",
    "peak_memory": "peak device memory, bytes",
}


@dataclass(frozen=True)
class Change:
    """A counter that differs between base and head.

    Attributes:
        phase: prefill, decode, or process for what belongs to neither.
        group: what is counted, a key of WORDS.
        name: of which operator, direction or kind; `total` for all of the group.
        base: its value in one measurement.
        head: the same.
        steps: engine steps of that phase in the base.
        layers: decoder layers of the model.
    """

    phase: str
    group: str
    name: str
    base: int
    head: int
    steps: int
    layers: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from other counters."""
        return self.phase, self.group, self.name

    @property
    def worse(self) -> bool:
        """Whether the head's is the worse one."""
        return (self.head < self.base) if self.name in BETTER_MORE else (self.head > self.base)

    @property
    def gating(self) -> bool:
        """Whether it decides: sums do; which operators they are made of is for the reader.

        A fused operator in place of three is a new operator, and no loss.
        """
        return self.name == "total" or self.group in ("engine", "peak_memory")

    def __str__(self) -> str:
        name = self.name.replace("_", " ") if self.group != "launches" else self.name
        what = WORDS[self.group].format(name="all operators" if self._of_all else name)
        if self.group == "peak_memory" or self.steps == 0:
            return f"{self.phase}: {what}: {self.base} to {self.head}"
        text = (
            f"{self.phase}: {what}: {_number(self.base, self.steps)} to "
            f"{_number(self.head, self.steps)} per step"
        )
        per_layer = (self.head - self.base) / self.steps / max(self.layers, 1)
        if self.group == "launches" and per_layer == int(per_layer):
            text += f" ({per_layer:+.0f} per layer and step)"
        return text

    @property
    def _of_all(self) -> bool:
        return self.name == "total" and self.group in ("launches", "launch_bytes")

    def as_json(self) -> dict[str, Any]:
        """Return the change as plain data."""
        return {
            "phase": self.phase,
            "group": self.group,
            "name": self.name,
            "base": self.base,
            "head": self.head,
            "worse": self.worse,
            "text": str(self),
        }


@dataclass
class Finding:
    """What the comparison of one cell at one batch size found.

    Attributes:
        cell: id of the cell.
        batch: sequences that are computed together.
        margin: by how much the head's time may be longer, as a share.
        layers: decoder layers.
        base: what the base's process measured, one entry a pair.
        head: the head's.
        starts: which start of both engines each pair belongs to.
    """

    cell: str
    batch: int
    margin: float
    layers: int
    base: list[dict[str, Any]] = field(default_factory=list)
    head: list[dict[str, Any]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    @property
    def changes(self) -> list[Change]:
        """Counters that differ, sums first.

        One that is not the same in all runs of a side counts as differing only where every run of
        the head is on the same side of every run of the base.
        """
        base, head = distinct(self.base), distinct(self.head)
        pairs = [compare(b, h, self.layers) for b in base for h in head]
        found = {change.key: change for change in pairs[0]}
        for others in pairs[1:]:
            direction = {change.key: change.worse for change in others}
            found = {k: c for k, c in found.items() if direction.get(k) == c.worse}
        return list(found.values())

    @property
    def unsteady(self) -> list[str]:
        """What differed between measurements of one side, so that it cannot be compared."""
        found = []
        for name, runs in (("base", self.base), ("head", self.head)):
            first, *others = distinct(runs)
            for run in others:
                changes = compare(first, run, self.layers)
                found += [f"{name}: {c}" for c in changes if c.group not in GROWING]
        return list(dict.fromkeys(found))

    @property
    def same_tokens(self) -> bool:
        """Whether both generated the same tokens."""
        return {run["tokens"] for run in self.base} == {run["tokens"] for run in self.head}

    @property
    def ratio(self) -> Interval:
        """The head's seconds per decode step over the base's.

        Where a process lies in memory makes it faster or slower for as long as it lives, by a few
        percent: pairs of one start share that, and count as one where there are several starts.
        """
        ratios: dict[int, list[float]] = {}
        for start, base, head in zip(self.starts, self.base, self.head, strict=True):
            ratio = float(head["seconds_per_step"]) / float(base["seconds_per_step"])
            ratios.setdefault(start, []).append(ratio)
        if len(ratios) > 1:
            means = [interval_of(values).mean for values in ratios.values()]
            return interval_of(means)
        return interval_of(*ratios.values())

    @property
    def time(self) -> Verdict:
        """The verdict on the host's time: the whole interval has to be on one side.

        A few starts can pass, and not fail: their pairs share what is due to that start alone.
        """
        ratio, bound = self.ratio, 1 + self.margin
        if ratio.high <= bound:
            return "passed"
        return "failed" if ratio.low > bound and self._starts >= LEAST_STARTS else "inconclusive"

    @property
    def _starts(self) -> int:
        return len(set(self.starts))

    @property
    def undecided(self) -> bool:
        """Whether further starts of the engines could change the verdict."""
        return self.counters not in ("worse", "unsteady") and self.time == "inconclusive"

    @property
    def worse(self) -> list[Change]:
        """The changes that decide against the head."""
        return [change for change in self.changes if change.gating and change.worse]

    @property
    def counters(self) -> Literal["equal", "worse", "better", "changed", "unsteady"]:
        """What became of the counters, in a word."""
        if self.worse:
            return "worse"
        if self.unsteady:
            return "unsteady"
        if not self.changes:
            return "equal"
        return "better" if any(change.gating for change in self.changes) else "changed"

    @property
    def verdict(self) -> Verdict:
        """The verdict on everything."""
        if self.counters == "worse" or self.time == "failed":
            return "failed"
        if self.counters == "unsteady" or self.time == "inconclusive":
            return "inconclusive"
        return "passed"

    @property
    def reasons(self) -> list[str]:
        """Why it did not pass; empty where it did."""
        found = [str(change) for change in self.changes if change.worse] if self.worse else []
        if self.unsteady:
            found += [f"differs between runs of one side: {text}" for text in self.unsteady[:5]]
        ratio = self.ratio
        interval = f"{ratio.mean:.3f} times the base's ({ratio.low:.3f} to {ratio.high:.3f})"
        if self.time == "failed":
            found.append(f"host time per decode step is {interval}, more than the margin allows")
        if self.time == "inconclusive":
            found.append(
                f"host time per decode step is {interval} in {self._starts} starts: these cannot "
                f"tell whether it grew by more than {self.margin:.0%}"
            )
        return found


def compare(base: Mapping[str, Any], head: Mapping[str, Any], layers: int) -> list[Change]:
    """Return the counters that differ between two measurements of `perf.worker`, sums first.

    Args:
        base: one measurement.
        head: another of the same workload.
        layers: decoder layers of the model.
    """
    found = []
    for phase in PHASES:
        steps = int(base[phase]["engine"]["steps"])
        ours, theirs = flatten(base[phase]), flatten(head[phase])
        for key in sorted(ours.keys() | theirs.keys()):
            before, after = ours.get(key, 0), theirs.get(key, 0)
            if before != after and key[0] not in TIMED:
                found.append(Change(phase, *key, before, after, steps, layers))
    if base["peak_memory"] != head["peak_memory"]:
        peaks = int(base["peak_memory"]), int(head["peak_memory"])
        found.append(Change("process", "peak_memory", "peak", *peaks, 0, layers))
    return sorted(found, key=lambda change: not change.gating)


def distinct(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measurements that counted differently, in order: one, where all is steady."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        counted = json.dumps([*(run[phase] for phase in PHASES), run["peak_memory"]])
        found.setdefault(counted, run)
    return list(found.values())


def flatten(counters: Counters) -> dict[tuple[str, str], int]:
    """Return (group, name) to value for one phase's counters, with the sum of each group."""
    flat: dict[tuple[str, str], int] = {}
    for group, name, value in _values(counters):
        flat[group, name] = value
        if group != "engine":
            flat[group, "total"] = flat.get((group, "total"), 0) + value
    return flat


def _values(counters: Counters) -> Iterator[tuple[str, str, int]]:
    singular = {"launches": "launch_bytes", "copies": "copy_bytes"}
    for group, entries in counters.items():
        for name, value in entries.items():
            if isinstance(value, Mapping):
                yield group, name, int(value["count"])
                yield singular[group], name, int(value["bytes"])
            else:
                yield group, name, int(value)


def overall(findings: Sequence[Finding]) -> Verdict:
    """Return the verdict on several findings; one that failed counts most."""
    verdicts = {finding.verdict for finding in findings}
    if "failed" in verdicts:
        return "failed"
    return "inconclusive" if "inconclusive" in verdicts else "passed"


def _number(value: int, steps: int) -> str:
    each = value / steps
    return f"{each:.0f}" if each == int(each) else f"{each:.2f}"
