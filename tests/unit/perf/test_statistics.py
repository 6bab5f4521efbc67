"""Rates and ratios: what is alike in both cancels out, and noise widens the interval."""

from __future__ import annotations

import math

import pytest

from perf.statistics import decode_rate, ratio_interval


def test_rate_counts_only_the_tokens_between_both_lengths() -> None:
    # 2 s of prefill and 0.1 s per step, for a batch of 8.
    assert decode_rate(8, 4, 68, 2.4, 8.8) == pytest.approx(80.0)


@pytest.mark.parametrize(("long", "seconds"), [(4, 9.0), (68, 2.4), (68, 2.0)])
def test_no_rate_without_a_longer_generation(long: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="no rate"):
        decode_rate(8, 4, long, 2.4, seconds)


def test_equal_ratios_have_no_width_and_noisy_ones_do() -> None:
    same = ratio_interval([5.0, 10.0, 20.0], [10.0, 20.0, 40.0])
    assert (same.mean, same.low, same.high) == pytest.approx((0.5, 0.5, 0.5))
    noisy = ratio_interval([4.0, 10.0, 25.0], [10.0, 20.0, 40.0])
    assert noisy.low < 0.45 < 0.5 < noisy.high


def test_interval_is_students_on_logarithms() -> None:
    found = ratio_interval([1.0, math.e], [1.0, 1.0])
    assert found.mean == pytest.approx(math.exp(0.5))
    # Standard deviation of (0, 1) over the square root of two is one half.
    assert found.high == pytest.approx(math.exp(0.5 + 12.706 * 0.5), rel=1e-3)


def test_one_pair_has_no_interval_and_no_pairs_are_an_error() -> None:
    assert math.isnan(ratio_interval([1.0], [2.0]).low)
    with pytest.raises(ValueError, match="no pairs"):
        ratio_interval([1.0], [])


def test_among_many_pairs_a_few_that_are_far_off_count_little() -> None:
    quiet = [1.0 + 0.01 * (-1) ** n for n in range(20)]
    disturbed = [*quiet[:17], 3.0, 5.0, 4.0]
    found = ratio_interval(disturbed, [1.0] * 20)
    assert 0.98 < found.low < found.mean < found.high < 1.02
    assert ratio_interval([1.2 * r for r in disturbed], [1.0] * 20).low > 1.17
