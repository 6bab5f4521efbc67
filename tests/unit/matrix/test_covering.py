"""Covering arrays hold every feasible pair, in an order that a budget may cut anywhere."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import matrix
from matrix import Cell
from matrix.covering import covering, ordered, share, within
from tests.benchmarks.expansion import by_covertable
from tests.benchmarks.synthetic import Size, write
from tests.unit.ci.conftest import make_cell


@pytest.fixture(scope="module")
def supported() -> list[Cell]:
    return [cell for cell in matrix.expand(matrix.load()) if cell.unsupported is None]


def pairs(cells: list[Cell]) -> set[tuple[object, ...]]:
    """Counted in another way than the code under test does."""
    found = set()
    for cell in cells:
        model, feature, cann, hardware = cell.id.split("/")
        values = (model, *feature.split("+"), cann.removeprefix("cann-"), hardware)
        axes = (0, *(1 for _ in feature.split("+")), 2, 3)
        pairs_ = combinations(zip(axes, values, strict=True), 2)
        found |= {(i, j, a, b) for (i, a), (j, b) in pairs_}
    return found


def test_every_feasible_pair_of_the_matrix_is_covered_by_supported_cells(
    supported: list[Cell],
) -> None:
    rows = covering(supported)
    assert pairs(rows) == pairs(supported)
    assert set(rows) <= set(supported)
    assert len(rows) < len(supported) / 4


def test_about_half_of_the_pairs_are_in_the_first_quarter(supported: list[Cell]) -> None:
    rows = covering(supported)
    quarter = len(pairs(rows[: len(rows) // 4])) / len(pairs(supported))
    assert quarter > 0.45
    assert quarter == pytest.approx(share(rows[: len(rows) // 4], supported))
    assert quarter > 1.5 * share(supported[: len(rows) // 4], supported), "the files' order"


def test_covertable_needs_as_many_rows_for_the_same_pairs(supported: list[Cell]) -> None:
    theirs = by_covertable(supported)
    assert {(i, j, row[i], row[j]) for row in theirs for i, j in combinations(range(4), 2)} == (
        pairs(supported)
    )
    assert len(covering(supported)) <= len(theirs)


def test_rows_that_must_run_are_not_run_twice_and_count(supported: list[Cell]) -> None:
    must = supported[100:110]
    rows = covering([cell for cell in supported if cell not in must], must)
    assert not set(rows) & set(must)
    assert pairs(must + rows) == pairs(supported)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10), rules=st.integers(0, 40))
def test_every_pair_of_any_matrix_is_covered(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rules: int
) -> None:
    root = tmp_path_factory.mktemp("made-up")
    size = Size(models=6, features=5, cann=3, hardware=3, rules=rules)
    cells = matrix.expand(matrix.load(write(root, size, seed)))
    assert len(cells) == size.combinations
    feasible = [cell for cell in cells if cell.unsupported is None]
    assert pairs(covering(feasible)) == pairs(feasible)


def test_two_features_on_at_once_are_a_pair() -> None:
    claims = matrix.load()
    singles = [cell for cell in matrix.expand(claims) if cell.unsupported is None]
    both = [cell for cell in matrix.combine(claims) if cell.unsupported is None]
    assert pairs(covering(both)) == pairs(both)
    together = {cell.feature.name for cell in both}
    new = [cell for cell in covering(singles + both) if cell in set(both)]
    assert {cell.feature.name for cell in new} == together, "each pair of features once"
    assert len(new) < len(together) * 1.1


def test_the_order_ends_with_what_brings_nothing_new() -> None:
    cells = [make_cell(model=m, cann=c) for m in ("a", "b") for c in ("8.5.0", "9.1.0")]
    rows = ordered(cells)
    assert sorted(rows, key=str) == sorted(cells, key=str)
    assert pairs(rows[: len(covering(cells))]) == pairs(cells)


def test_a_budget_takes_what_covers_most_and_leaves_out_what_does_not_fit() -> None:
    cells = [
        make_cell(feature="base", model="a"),
        make_cell(feature="base", model="a2"),
        make_cell(feature="lora", model="b"),
        make_cell(feature="huge", model="c"),
    ]
    cost = {cell.id: 10.0 for cell in cells} | {cells[3].id: 1000.0}
    assert within(cells, cost, 20.0) == [cells[0], cells[2]], "base is covered by the first"


def test_a_cell_that_does_not_fit_covers_nothing() -> None:
    cells = [make_cell(feature=f, model=m) for f in ("base", "lora") for m in ("a", "b")]
    cost = dict(zip((c.id for c in cells), (9.0, 1.0, 1.0, 1.0), strict=True))
    chosen = within(cells, cost, 8.0)
    assert pairs(chosen) == pairs(cells[1:])


def test_a_budget_fills_what_is_left_with_cells_that_cover_nothing_new() -> None:
    cells = [make_cell(model="a"), make_cell(model="a", feature="b"), make_cell(model="a")]
    assert len(within(cells[:2], {cell.id: 3.0 for cell in cells}, 7.0)) == 2


def test_what_must_run_comes_first_as_far_as_it_fits() -> None:
    cells = [make_cell(model=name) for name in ("a", "b", "c")]
    cost = {cells[0].id: 1.0, cells[1].id: 1.0, cells[2].id: 50.0}
    assert within(cells, cost, 1.5, must=[cells[2], cells[1]]) == [cells[1]]


@given(
    seconds=st.lists(st.floats(0.1, 100), min_size=1, max_size=12),
    budget=st.floats(1, 200),
    parallel=st.integers(1, 4),
)
def test_a_budget_is_never_exceeded(seconds: list[float], budget: float, parallel: int) -> None:
    cells = [make_cell(feature=f"f{i}") for i in range(len(seconds))]
    cost = {cell.id: s for cell, s in zip(cells, seconds, strict=True)}
    chosen = within(cells, cost, budget * parallel, budget)
    spent = sum(cost[cell.id] for cell in chosen)
    assert spent <= budget * parallel + 1e-9
    left_out = [cell for cell in cells if cell not in chosen]
    spare = budget * parallel - spent
    assert all(cost[cell.id] > min(spare, budget) - 1e-9 for cell in left_out)


def test_a_synthetic_matrix_has_as_many_cells_as_asked_for(tmp_path: Path) -> None:
    size = Size(models=7, features=5, cann=3, hardware=2, rules=9)
    cells = matrix.expand(matrix.load(write(tmp_path / "made-up", size)))
    assert len(cells) == size.combinations
    ruled_out = sum(cell.unsupported is not None for cell in cells)
    assert 0 < ruled_out < len(cells)
