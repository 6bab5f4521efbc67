"""The gates pass what is right, and fail what has to fail."""

from __future__ import annotations

import math

import pytest

from accuracy.gates import (
    Position,
    detectable_drop,
    holm,
    interval,
    judge_change,
    judge_port,
    largest_drop,
    pair,
    power,
)
from matrix import ChangeGate, PortGate

PORT = PortGate(logprob=0.005, divergence=1e-5, agreement=0.999, tie=0.001)
CHANGE = ChangeGate(alpha=0.01, power=0.8, tolerated=0.05, flips=0.032)


def position(engine=-0.5, reference=-0.5, phase="decode", top=None, theirs=None, best=7, **more):
    top = top or ((7, -0.5), (8, -1.5))
    theirs = theirs or tuple(logprob for _, logprob in top)
    return Position(
        prompt=more.get("prompt", 0),
        index=more.get("index", 3),
        phase=phase,
        token=7,
        engine=engine,
        reference=reference,
        engine_top=top,
        reference_at_top=theirs,
        reference_best=best,
        reference_best_logprob=more.get("best_logprob", -0.5),
    )


def test_equal_logprobs_pass() -> None:
    found = judge_port([position(), position(phase="prefill")], PORT)
    assert found.verdict == "passed"
    assert (found.largest, found.mean_divergence, found.agreement) == (0, 0, 1)
    assert found.first_differing is None


def test_nothing_compared_is_no_pass() -> None:
    with pytest.raises(ValueError, match="no token was compared"):
        judge_port([], PORT)


def test_one_token_off_fails_and_is_named() -> None:
    found = judge_port([position()] * 99 + [position(engine=-0.51, prompt=4, index=17)], PORT)
    assert found.verdict == "failed"
    assert "prompt 4, token 17" in found.reasons[0]


def test_a_shifted_distribution_fails_although_the_token_agrees() -> None:
    shifted = position(top=((7, -0.5), (8, -1.5)), theirs=(-0.5, -1.6))
    found = judge_port([shifted], PORT)
    assert found.verdict == "failed"
    assert "mean divergence" in found.reasons[0]


def test_another_choice_fails_and_its_first_place_is_told() -> None:
    other = position(theirs=(-0.9, -0.5), top=((7, -0.5), (8, -0.9)), best=8, index=12)
    found = judge_port([position(), other, position(index=13)], PORT)
    assert found.verdict == "failed"
    assert found.first_differing == {"prompt": 0, "index": 12, "lost": pytest.approx(0.4)}
    assert found.agreement == pytest.approx(2 / 3)


def test_a_tie_is_no_other_choice() -> None:
    top = ((7, -0.7), (8, -0.7003))
    tie = position(
        engine=-0.7, reference=-0.7002, top=top, theirs=(-0.7002, -0.7), best=8, best_logprob=-0.7
    )
    assert judge_port([tie], PORT).verdict == "passed"


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_no_number_fails(value: float) -> None:
    found = judge_port([position(), position(engine=value)], PORT)
    assert found.verdict == "failed"
    assert "no numbers" in found.reasons[0]


def test_the_divergence_is_that_of_the_formula() -> None:
    ours, theirs = (0.5, 0.25), (0.4, 0.3)
    made = position(
        top=tuple((i, math.log(p)) for i, p in enumerate(ours)), theirs=tuple(map(math.log, theirs))
    )
    expected = sum(p * math.log(p / q) for p, q in zip((*theirs, 0.3), (*ours, 0.25), strict=True))
    assert made.divergence == pytest.approx(expected)


def run(correct: int, items: int, task: str = "t") -> dict[tuple[str, str], bool]:
    return {(task, f"{i:05d}"): i < correct for i in range(items)}


def flipped(outcomes: dict, lost: int = 0, won: int = 0) -> dict:
    right = [key for key, value in outcomes.items() if value][:lost]
    wrong = [key for key, value in outcomes.items() if not value][:won]
    return {**outcomes, **dict.fromkeys(right, False), **dict.fromkeys(wrong, True)}


def test_identical_runs_pass_with_zero_flips() -> None:
    found = judge_change(run(80, 220), run(80, 220), CHANGE)
    assert (found.verdict, found.flips, found.reasons) == ("passed", 0, ())
    assert found.pooled.p == 1


def test_a_loss_beyond_chance_fails() -> None:
    base = run(100, 220)
    found = judge_change(base, flipped(base, lost=12, won=1), CHANGE)
    assert found.verdict == "failed"
    assert "12 items lost and 1 won" in found.reasons[0]


def test_a_loss_in_one_task_fails_although_another_gained() -> None:
    first, second = run(60, 100, "first"), run(40, 100, "second")
    now = {**flipped(first, lost=14), **flipped(second, won=14)}
    found = judge_change({**first, **second}, now, CHANGE)
    assert found.pooled.drop == 0
    assert found.verdict == "failed"
    assert [line.split(":")[0] for line in found.reasons] == ["first"]


def test_a_gain_does_not_fail() -> None:
    base = run(100, 400)
    assert judge_change(base, flipped(base, won=40), CHANGE).verdict == "passed"


def test_few_items_are_inconclusive_even_when_nothing_changed() -> None:
    found = judge_change(run(10, 20), run(10, 20), CHANGE)
    assert found.verdict == "inconclusive"
    assert "is not excluded by 20 items" in found.reasons[0]


def test_many_flips_are_inconclusive() -> None:
    base = run(100, 220)
    assert judge_change(base, flipped(base, lost=9, won=8), CHANGE).verdict == "inconclusive"


def test_items_of_only_one_run_are_inconclusive() -> None:
    found = judge_change(run(80, 230), run(80, 220), CHANGE)
    assert (found.verdict, found.unpaired) == ("inconclusive", 10)


def test_no_common_item_is_an_error() -> None:
    with pytest.raises(ValueError, match="no item in common"):
        judge_change(run(1, 2, "a"), run(1, 2, "b"), CHANGE)


def test_p_is_the_binomial_tail() -> None:
    base = run(50, 100)
    found = pair(base, flipped(base, lost=5), list(base))
    assert found.p == pytest.approx(0.5**5)


def test_holm_adjusts_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_bound_covers_the_observed_drop() -> None:
    base = run(500, 1000)
    few = pair(base, flipped(base, lost=20), list(base))
    assert 0.02 < largest_drop(few, 0.01) < 0.04


def test_the_test_alarms_less_often_than_alpha_without_a_drop() -> None:
    assert power(1319, 0.0, 0.032, 0.01) <= 0.01


@pytest.mark.parametrize(
    ("items", "drop", "found"),
    [
        (1319, 0.01, 0.24),
        (1319, 0.02, 0.79),
        (1319, 0.03, 0.98),
        (250, 0.03, 0.24),
        (250, 0.05, 0.65),
    ],
)
def test_the_power_is_what_simulations_found(items: int, drop: float, found: float) -> None:
    # 20,000 simulated trials each, with 3.2 % of answers flipping without a cause.
    assert power(items, drop, 0.032, 0.01) == pytest.approx(found, abs=0.05)


def test_the_detectable_drop_is_seen_with_the_power_asked_for() -> None:
    drop = detectable_drop(220, CHANGE)
    assert drop is not None
    assert power(220, drop, 0.032, 0.01) == pytest.approx(0.8, abs=0.005)
    assert detectable_drop(5, CHANGE) is None


def test_the_interval_of_a_score_is_wilsons() -> None:
    low, high = interval(40, 100)
    assert (low, high) == pytest.approx((0.3094, 0.4980), abs=1e-4)
