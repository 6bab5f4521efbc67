"""The arithmetic of paired measurements: rates, ratios and their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student


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
    """Return the geometric mean of paired ratios, with its 95 % interval (t, on logarithms).

    With a single pair the bounds are not known, and are not numbers.

    Raises:
        ValueError: no pairs, or not the same number of both.
    """
    if not numerators or len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} and {len(denominators)} values are no pairs")
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) == 1:
        return Interval(math.exp(mean), math.nan, math.nan)
    quantile = float(student.ppf(0.975, len(logs) - 1))
    half = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
