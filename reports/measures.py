"""Puts a record's metrics into words: a value, its unit, and the interval that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.record import Metric, Record

_SELF_EVIDENT = ("share", "bytes")  # units that are part of how the number is written
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Measure:
    """One metric as people read it.

    Attributes:
        name: the metric's name in words.
        text: value and unit.
        interval: "low to high" where the record gives both bounds, else empty.
    """

    name: str
    text: str
    interval: str = ""

    def __str__(self) -> str:
        bounds = f" ({self.interval})" if self.interval else ""
        return f"{self.name} {self.text}{bounds}"


def measures(record: Record) -> list[Measure]:
    """Return every metric of a record in its order; bounds stand with what they belong to.

    The bounds of `x` are `x_low` and `x_high`; those of `x/score` are `x/low` and `x/high`.
    """
    intervals = {name: _interval(name, record.metrics) for name in record.metrics}
    shown = {bound for name, found in intervals.items() if found for bound in bounds(name)}
    return [
        Measure(words(name), value(metric), intervals[name])
        for name, metric in record.metrics.items()
        if name not in shown
    ]


def main(record: Record, most: int = 4) -> Sequence[Measure]:
    """Return the measures that say most: those with an interval, then the first ones."""
    found = measures(record)
    return sorted(found, key=lambda measure: not measure.interval)[:most]


def words(name: str) -> str:
    """Return a metric's name without what only programs need."""
    return name.removesuffix("/score").replace("_", " ").replace("/", " ")


def value(metric: Metric) -> str:
    """Return a value with its unit, such as 37.0 %, 647 MiB, 3.1e-06 nats."""
    if metric.unit == "share":
        return f"{metric.value:.1%}".replace("%", " %")
    if metric.unit.split("/")[0] == "bytes":
        return _bytes(metric.value) + metric.unit.removeprefix("bytes")
    return f"{number(metric.value)} {metric.unit}".strip()


def number(amount: float) -> str:
    """Return a number as people write it: 128, 0.52, 3.1e-06."""
    if float(amount).is_integer() and abs(amount) < 1e15:
        return f"{amount:,.0f}"
    return f"{amount:.4g}"


def _bytes(amount: float) -> str:
    for unit in _BINARY:
        if abs(amount) < 1024 or unit == _BINARY[-1]:
            break
        amount /= 1024
    return f"{number(amount) if unit == 'B' else f'{amount:.4g}'} {unit}"


def bounds(name: str) -> tuple[str, str]:
    """Return the names of the bounds of a metric, if it has any."""
    stem, _, last = name.rpartition("/")
    if last == "score":
        return f"{stem}/low", f"{stem}/high"
    return f"{name}_low", f"{name}_high"


def _interval(name: str, metrics: Mapping[str, Metric]) -> str:
    """Return the interval of a metric in words, or nothing where a bound is missing or strange."""
    metric = metrics[name]
    low, high = (metrics.get(bound) for bound in bounds(name))
    if low is None or high is None or {low.unit, high.unit} != {metric.unit}:
        return ""
    if not low.value <= metric.value <= high.value:
        return ""
    if metric.unit in _SELF_EVIDENT:
        return f"{value(low)} to {value(high)}"
    return f"{number(low.value)} to {number(high.value)}"
