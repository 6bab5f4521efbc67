"""Puts a record's metrics into words: a value, its unit, and the interval that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.record import Metric, Record

_BOUNDS = ("low", "high")
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

    The metrics `x/low` and `x/high` are the bounds of the other metrics under `x` in their unit.
    """
    metrics = record.metrics
    return [
        Measure(words(name), value(metric), _interval(name, metric, metrics))
        for name, metric in metrics.items()
        if not _is_bound(name, metrics)
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
    if metric.unit == "bytes":
        return _bytes(metric.value)
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


def _stem(name: str) -> tuple[str, str]:
    stem, _, last = name.rpartition("/")
    return stem, last


def _is_bound(name: str, metrics: Mapping[str, Metric]) -> bool:
    """Whether the metric is a bound that some other metric shows."""
    stem, last = _stem(name)
    if last not in _BOUNDS or any(f"{stem}/{bound}" not in metrics for bound in _BOUNDS):
        return False
    return any(
        _interval(other, metric, metrics)
        for other, metric in metrics.items()
        if _stem(other)[0] == stem and _stem(other)[1] not in _BOUNDS
    )


def _interval(name: str, metric: Metric, metrics: Mapping[str, Metric]) -> str:
    stem, last = _stem(name)
    low, high = (metrics.get(f"{stem}/{bound}") for bound in _BOUNDS)
    if last in _BOUNDS or low is None or high is None:
        return ""
    if {low.unit, high.unit} != {metric.unit} or not low.value <= metric.value <= high.value:
        return ""
    return f"{value(low)} to {value(high)}"
