"""Each comparison passes on equal data, and fails on the smallest difference that it must see."""

from __future__ import annotations

import math

import pytest

from tests.e2e import compare
from tests.e2e.context import GateFailed

TOKENS = [[5, 6, 7, 8], [9, 10, 11, 12]]
LOGPROBS = [-0.1, -1.5, -2.25, -0.5]
TOP = [[(3, -0.2), (4, -1.9), (5, -3.0), (6, -3.1)], [(7, -0.6), (8, -1.0), (9, -4.0), (1, -5.0)]]


def as_tables(rows: list[list[tuple[int, float]]], count: int) -> list[dict[int, float]]:
    return [dict(row[:count]) for row in rows]


def test_equal_tokens_are_counted() -> None:
    assert compare.equal_tokens(TOKENS, TOKENS) == 8


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ([[5, 6, 7, 8], [9, 10, 12, 12]], "of prompt 1 differ from position 2"),
        ([[6, 7, 8, 5], [9, 10, 11, 12]], "of prompt 0 differ from position 0"),
        ([[5, 6, 7], [9, 10, 11, 12]], "of prompt 0 differ from position 3"),
        ([[5, 6, 7, 8]], "1 sequences; the reference has 2"),
    ],
)
def test_changed_shifted_short_or_missing_tokens_fail(
    engine: list[list[int]], message: str
) -> None:
    with pytest.raises(GateFailed, match=message):
        compare.equal_tokens(engine, TOKENS)


def test_nothing_to_compare_fails() -> None:
    with pytest.raises(GateFailed, match="no token"):
        compare.equal_tokens([[]], [[]])
    with pytest.raises(GateFailed, match="0 values"):
        compare.close_logprobs([], [], "float32")
    with pytest.raises(GateFailed, match="0 vectors"):
        compare.close_vectors([], [], "float32")


def test_parting_at_a_near_tie_is_allowed_only_there() -> None:
    gaps = [[2.0, 0.1, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]]
    parted = [[5, 60, 70, 80], [9, 10, 11, 12]]
    assert compare.equal_tokens_up_to_ties(parted, TOKENS, gaps, "bfloat16") == 5
    with pytest.raises(GateFailed, match="prompt 0 differs at position 1"):
        compare.equal_tokens_up_to_ties(parted, TOKENS, gaps, "float32")
    with pytest.raises(GateFailed, match="prompt 1 differs at position 0"):
        compare.equal_tokens_up_to_ties([[5, 6, 7, 8], [1, 10]], TOKENS, gaps, "bfloat16")


def test_logprobs_within_tolerance_are_measured() -> None:
    found = compare.close_logprobs([x + 1e-5 for x in LOGPROBS], LOGPROBS, "float32")
    assert found.values == 4
    assert found.largest == pytest.approx(1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_logprob_off_by_a_little_fails(dtype: str) -> None:
    planted = [*LOGPROBS[:2], LOGPROBS[2] + 0.051, LOGPROBS[3]]
    with pytest.raises(GateFailed, match=r"differ by 0\.051.* at position 2"):
        compare.close_logprobs(planted, LOGPROBS, dtype)


def test_small_bias_on_all_values_fails_though_each_is_tolerated() -> None:
    biased = [x - 0.1 for x in LOGPROBS]
    assert compare.LOGPROB_TOLERANCE["bfloat16"] > 0.1
    with pytest.raises(GateFailed, match="on average"):
        compare.close_logprobs(biased, LOGPROBS, "bfloat16")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_fail(value: float) -> None:
    with pytest.raises(GateFailed, match="not a finite number"):
        compare.close_logprobs([value, *LOGPROBS[1:]], LOGPROBS, "float32")
    with pytest.raises(GateFailed):
        compare.close_vectors([[value, 1.0]], [[0.0, 1.0]], "float32")


def test_top_tokens_may_exchange_places_only_when_they_are_equal() -> None:
    assert compare.close_top(as_tables(TOP, 3), TOP, 3, "float32").largest == 0
    other = as_tables(TOP, 3)
    # 6 is 0.1 less likely than 5: a tie in bfloat16, and none in float32.
    other[0] = {3: -0.2, 4: -1.9, 6: -3.1}
    compare.close_top(other, TOP, 3, "bfloat16")
    with pytest.raises(GateFailed, match="token 6 is among the best 3 at position 0"):
        compare.close_top(other, TOP, 3, "float32")


def test_top_with_a_foreign_token_a_wrong_value_or_too_few_fails() -> None:
    foreign = as_tables(TOP, 3)
    foreign[1] = {7: -0.6, 8: -1.0, 99: -4.0}
    with pytest.raises(GateFailed, match="token 99"):
        compare.close_top(foreign, TOP, 3, "bfloat16")
    wrong = as_tables(TOP, 3)
    wrong[1][8] = -1.05
    with pytest.raises(GateFailed, match=r"differ by 0\.05"):
        compare.close_top(wrong, TOP, 3, "float32")
    with pytest.raises(GateFailed, match="2 tokens at position 0, not 3"):
        compare.close_top(as_tables(TOP, 2), TOP, 3, "float32")


def test_vectors_off_in_one_component_or_direction_fail() -> None:
    vector = [0.6, 0.8, 0.0]
    assert compare.close_vectors([vector], [vector], "float32") == (pytest.approx(1.0), 0.0)
    with pytest.raises(GateFailed, match="cosine"):
        compare.close_vectors([[0.6, 0.8, 0.001]], [vector], "float32")
    with pytest.raises(GateFailed, match="cosine"):
        compare.close_vectors([[0.8, 0.6, 0.0]], [vector], "bfloat16")
    with pytest.raises(GateFailed, match="has 2 components"):
        compare.close_vectors([vector[:2]], [vector], "float32")
