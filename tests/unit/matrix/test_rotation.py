"""A rotation shows every supported cell within its nights, and says when the budget cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import matrix
from matrix import Cell, Night, Seen, night
from matrix.covering import share
from matrix.rotation import UNSTABLE_SHARE
from tests.unit.ci.conftest import make_cell

MONDAY = date(2026, 11, 23)
NIGHTS = 7


@pytest.fixture(scope="module")
def supported() -> list[Cell]:
    return [cell for cell in matrix.expand(matrix.load()) if cell.unsupported is None]


def costs(cells: list[Cell]) -> dict[str, float]:
    """Made up, different, and the same each time."""
    return {cell.id: 8.0 + len(cell.id) % 7 * 5.0 for cell in cells}


def week(
    cells: list[Cell],
    budget: float | None,
    cost: Mapping[str, float],
    seen: dict[str, Seen] | None,
    must: tuple[Cell, ...] = (),
) -> list[Night]:
    """Seven nights one after the other; what ran is known the night after, where `seen` is kept."""
    found = []
    for number in range(NIGHTS):
        day = MONDAY + timedelta(days=number)
        tonight = night(cells, day, NIGHTS, budget, cost, seen, must)
        found.append(tonight)
        if budget is not None:
            assert sum(cost[cell.id] for cell in tonight.cells) <= budget + 1e-6
        if seen is not None:
            seen |= {c.id: Seen(day, seen.get(c.id, Seen()).unstable) for c in tonight.cells}
    return found


@pytest.mark.parametrize("remembered", [True, False])
def test_seven_nights_of_the_needed_budget_select_every_supported_cell(
    supported: list[Cell], remembered: bool
) -> None:
    cost = costs(supported)
    budget = night(supported, MONDAY, NIGHTS, 1.0, cost).needed
    assert budget < sum(cost.values()) / NIGHTS + max(cost.values()), "a fair share of the work"
    nights = week(supported, budget, cost, {} if remembered else None)
    assert not any(n.missed for n in nights)
    assert {cell for n in nights for cell in n.cells} == set(supported)


def test_unstable_cells_do_not_cost_the_others_their_turn(supported: list[Cell]) -> None:
    cost = costs(supported)
    last = MONDAY - timedelta(days=3)
    seen = {c.id: Seen(last, unstable=i % 50 == 0) for i, c in enumerate(supported)}
    must = tuple(supported[:5])
    budget = night(supported, MONDAY, NIGHTS, 1.0, cost, seen, must).needed
    nights = week(supported, budget, cost, seen, must)
    assert {cell for n in nights for cell in n.cells} == set(supported)
    for found in nights:
        assert found.cells[:5] == list(must)
        first = [cell.id for cell in found.cells[5:10]]
        assert all(seen[id_].unstable for id_ in first)


def test_without_a_budget_a_night_has_every_pair_and_a_seventh_of_the_cells(
    supported: list[Cell],
) -> None:
    for tonight in week(supported, None, costs(supported), None):
        assert share(tonight.cells, supported) == 1.0
        assert len(tonight.cells) < len(supported) / 3
        assert list(tonight.reasons) == [cell.id for cell in tonight.cells]


def test_too_small_a_budget_is_told_with_the_one_that_is_enough(supported: list[Cell]) -> None:
    cost = costs(supported)
    short = night(supported, MONDAY, NIGHTS, 600.0, cost)
    assert short.missed
    assert set(short.missed).isdisjoint(short.cells)
    said = short.shortage(NIGHTS, "minutes", 60.0)
    assert f"{math.ceil(short.needed / 60)} minutes a night" in said
    assert short.missed[0].id in said
    assert not night(supported, MONDAY, NIGHTS, short.needed, cost).missed


def test_what_a_night_missed_comes_before_what_has_its_turn() -> None:
    cells = [make_cell(feature=f"f{i}") for i in range(70)]
    old = MONDAY - timedelta(days=12)
    seen = {cell.id: Seen(MONDAY - timedelta(days=6)) for cell in cells} | {
        cells[33].id: Seen(old),
        cells[44].id: Seen(old - timedelta(days=1)),
    }
    tonight = night(cells, MONDAY, NIGHTS, 5.0, None, seen)
    assert tonight.cells[:2] == [cells[44], cells[33]]
    assert tonight.reasons[cells[44].id] == "untested for longer than a rotation"


def test_never_run_cells_are_brought_in_from_the_nights_own_part_on() -> None:
    cells = [make_cell(feature=f"f{i}") for i in range(70)]
    own = {cell.id for cell in night(cells, MONDAY, NIGHTS, None).cells[:10]}
    turn = [c for c, why in night(cells, MONDAY, NIGHTS).reasons.items() if "turn" in why]
    tonight = night(cells, MONDAY, NIGHTS, 10.0, None, {})
    assert {cell.id for cell in tonight.cells} == set(turn)
    assert own == set(turn)


def test_unstable_cells_take_a_share_of_the_budget_and_no_more() -> None:
    cells = [make_cell(feature=f"f{i}") for i in range(70)]
    seen = {cell.id: Seen(MONDAY - timedelta(days=1), unstable=True) for cell in cells}
    reasons = night(cells, MONDAY, NIGHTS, 20.0, None, seen).reasons
    assert list(reasons.values()).count("unstable") == 20 * UNSTABLE_SHARE


@settings(deadline=None)
@given(st.dates(date(2020, 1, 1), date(2040, 1, 1)), st.integers(1, 9), st.integers(1, 40))
def test_the_parts_of_the_nights_are_disjoint_and_whole(day: date, nights: int, count: int) -> None:
    cells = [make_cell(feature=f"f{i}") for i in range(count)]
    turns: list[str] = []
    for number in range(nights):
        found = night(cells, day + timedelta(days=number), nights)
        turns += [id_ for id_, why in found.reasons.items() if why.startswith("its turn")]
    assert sorted(turns) == sorted(cell.id for cell in cells)


def test_the_same_day_gives_the_same_night(supported: list[Cell]) -> None:
    again = night(list(supported), MONDAY, NIGHTS, 900.0, costs(supported))
    assert night(supported, MONDAY, NIGHTS, 900.0, costs(supported)) == again
    other = night(supported, MONDAY + timedelta(days=1), NIGHTS, 900.0, costs(supported))
    assert other.cells != again.cells


Run = Callable[..., tuple[int, str, str]]


def test_the_command_line_lists_a_night_in_its_order(run: Run) -> None:
    code, out, _ = run("list", "--select", "nightly", "--date", "2026-11-21")
    assert code == 0
    listed = out.split()
    assert len(listed) == len(set(listed))
    _, other, _ = run("list", "--select", "nightly", "--date", "2026-11-22")
    assert set(other.split()) != set(listed)
    assert listed[0] in other.split(), "what must run runs every night"


def test_the_command_line_says_when_a_budget_is_too_small(run: Run) -> None:
    code, out, err = run("list", "--select", "nightly", "--date", "2026-11-21", "--budget", 50)
    assert code == 0
    assert len(out.split()) == 50
    needed = int(err.split("takes ")[1].split(" cells a night")[0])
    _, out, err = run("list", "--select", "nightly", "--date", "2026-11-21", "--budget", needed)
    assert (len(out.split()), err) == (needed, "")


def test_the_command_line_lists_a_covering_array(run: Run) -> None:
    _, everything, _ = run("list", "--select", "all")
    _, out, _ = run("list", "--select", "all", "--covering")
    assert len(out.split()) < len(everything.split()) / 3
