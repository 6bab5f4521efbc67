"""The arithmetic of paired measurements: rates, ratios and their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student
from scipy.stats.mstats import trimmed_mean_ci

TRIM, TRIMMED_FROM = 0.2, 10
"""The share of pairs that is left out at either end, and from how many pairs on."""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def decode_rate(batch: int, short: int, long: int, short_s: float, long_s: float) -> float:
    """Return decoded tokens per second, from two generations that differ only in length.

    What both do alike (prefill, the first token, setting up) cancels out.

    Args:
        batch: sequences that are decoded together.
        short: tokens of each sequence in the short generation.
        long: tokens of each sequence in the long one.
        short_s: seconds that the short one took.
        long_s: seconds that the long one took.

    Raises:
        ValueError: the long one was not longer, in tokens or in time.
    """
    if long <= short or long_s <= short_s:
        raise ValueError(
            f"{long} tokens took {long_s:.3f} s and {short} tokens {short_s:.3f} s: no rate can be "
            "derived. Use a longer generation, or a machine that does nothing else."
        )
    return batch * (long - short) / (long_s - short_s)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Return `interval_of` the ratios of paired values.

    Raises:
        ValueError: no pairs, or not the same number of both.
    """
    if not numerators or len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} and {len(denominators)} values are no pairs")
    return interval_of([a / b for a, b in zip(numerators, denominators, strict=True)])


def interval_of(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of ratios, with its 95 % interval (t, on logarithms).

    From TRIMMED_FROM pairs on, the fifth at either end is trimmed (Yuen 1974): on a machine with
    other work a pair is now and then several times off, and says nothing about the code.
    With a single pair the bounds are not known, and are not numbers.
    """
    logs = [math.log(ratio) for ratio in ratios]
    if len(logs) >= TRIMMED_FROM:
        low, high = map(float, trimmed_mean_ci(logs, (TRIM, TRIM)))
        return Interval(math.exp((low + high) / 2), math.exp(low), math.exp(high))
    mean = statistics.fmean(logs)
    if len(logs) == 1:
        return Interval(math.exp(mean), math.nan, math.nan)
    quantile = float(student.ppf(0.975, len(logs) - 1))
    half = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
