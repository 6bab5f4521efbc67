"""Cells of two features: one for each unordered pair, with a body, or a reason why not."""

from __future__ import annotations

from itertools import combinations

import pytest

import matrix
from matrix import Cell
from matrix.combining import combine, everything
from matrix.errors import UnknownPattern
from matrix.selecting import matches
from tests.e2e.parts import PARTS
from tests.unit.matrix.conftest import Data


@pytest.fixture(scope="module")
def loaded() -> matrix.Matrix:
    return matrix.load()


@pytest.fixture(scope="module")
def pairs(loaded: matrix.Matrix) -> list[Cell]:
    return combine(loaded)


def test_every_unordered_pair_has_one_cell_in_each_place(
    loaded: matrix.Matrix, pairs: list[Cell]
) -> None:
    expected = {f"{a}+{b}" for a, b in combinations(sorted(loaded.features), 2)}
    for hardware in loaded.hardware:
        found = [cell.feature.name for cell in pairs if cell.hardware.name == hardware]
        assert sorted(found) == sorted(expected)
    assert len({cell.id for cell in pairs}) == len(pairs)


def test_every_pair_runs_a_body_or_says_why_not(pairs: list[Cell]) -> None:
    for cell in pairs:
        parts = cell.feature.name.split("+")
        if cell.unsupported is None:
            assert set(parts) <= set(PARTS), cell
        else:
            assert len(cell.unsupported.reason) > 20
    shown = sum(cell.unsupported is None for cell in pairs)
    assert shown > 400


def test_features_that_combine_are_those_that_the_body_has(loaded: matrix.Matrix) -> None:
    assert set(loaded.combinations.features) == set(PARTS)


def test_a_rule_about_one_feature_holds_for_its_pairs(pairs: list[Cell]) -> None:
    cells = {cell.id: cell for cell in pairs}
    rule = cells["qwen3/bfloat16+lora/cann-9.1.0/300i-duo"].unsupported
    assert rule is not None
    assert "no bfloat16" in rule.reason
    assert cells["qwen3/bfloat16+lora/cann-9.1.0/a2"].unsupported is None


def test_what_the_engine_refuses_has_a_rule(pairs: list[Cell]) -> None:
    cells = {cell.id: cell for cell in pairs}
    for pair, effect in (
        ("ngram-speculation+sampling-controls", "unsupported"),
        ("async-scheduling+ngram-speculation", "unsupported"),
        ("eagle+medusa", "not-applicable"),
        ("prefix-caching+prompt-logprobs", "not-applicable"),
    ):
        rule = cells[f"qwen3/{pair}/cann-9.1.0/a2"].unsupported
        assert rule is not None, pair
        assert rule.effect == effect


def test_a_pair_is_shown_with_the_model_that_has_the_feature(pairs: list[Cell]) -> None:
    models = {c.model.name for c in pairs if "quantisation" in c.feature.name.split("+")}
    assert models == {"qwen3-w8a8-dynamic"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("qwen3/lora+chunked-prefill/*/a2", True),
        ("qwen3/chunked-prefill+lora/*/a2", True),
        ("qwen3/lora+*/*", True),
        ("qwen3/*+lora/*", True),
        ("qwen3/*/*/a2", False),
        ("*", False),
        ("qwen3/lora+lora/*", False),
    ],
)
def test_only_a_pattern_with_a_plus_is_of_pairs_in_either_order(
    pattern: str, expected: bool
) -> None:
    assert matches(pattern, "qwen3/chunked-prefill+lora/cann-9.1.0/a2") is expected
    if "+" in pattern:
        assert not matches(pattern, "qwen3/lora/cann-9.1.0/a2")


def test_patterns_select_pairs(loaded: matrix.Matrix) -> None:
    cells = everything(loaded)
    chosen = matrix.select(loaded, cells, ["qwen3/lora+chunked-prefill/cann-9.1.0/a2"])
    assert [cell.id for cell in chosen] == ["qwen3/chunked-prefill+lora/cann-9.1.0/a2"]
    with pytest.raises(UnknownPattern):
        matrix.select(loaded, cells, ["qwen3/lora+lorra/*"])


def test_features_that_want_the_engine_differently_need_a_rule(data: Data) -> None:
    data.replace(
        "features.yaml",
        "engine: {async_scheduling: true}",
        "engine: {async_scheduling: true, max_num_seqs: 3}",
    )
    said = str(data.error())
    assert "max_num_seqs" in said
    assert "add a rule with a reason" in said


def test_a_name_that_leads_nowhere_is_told_with_the_nearest(data: Data) -> None:
    data.replace("combinations.yaml", "- chunked-prefill", "- chunked-prefil")
    assert "Did you mean 'chunked-prefill'?" in str(data.error())
