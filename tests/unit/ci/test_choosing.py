"""What a command line selects, with reasons: rotations, budgets, and what earlier runs say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest

import matrix
from ci import choosing, cli, history
from ci.choosing import Budget
from ci.errors import NothingSelectedError
from matrix import Seen, Selection
from reports.store import Store

from .conftest import make_cell

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
ROTATING = Selection(name="r", title="R", description="", cells=("*",), nights=7)


@dataclass(frozen=True)
class Ran:
    cell: str
    days_ago: float
    verdict: str = "passed"

    @property
    def started(self) -> datetime:
        return NOW - timedelta(days=self.days_ago)


def test_a_cell_is_unstable_if_one_of_its_newest_runs_of_late_did_not_pass() -> None:
    runs = [
        Ran("always", 3),
        Ran("broken", 1, "failed"),
        Ran("flaky", 1),
        Ran("flaky", 2, "error"),
        Ran("long-ago", 20, "failed"),
        *(Ran("mended", day) for day in range(1, 6)),
        Ran("mended", 6, "failed"),
    ]
    seen = history.seen(reversed(runs), NOW)
    assert {cell for cell, known in seen.items() if known.unstable} == {"broken", "flaky"}
    assert seen["flaky"].last == date(2026, 11, 20)


def test_a_rotation_counts_estimates_and_says_what_it_misses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = [make_cell(feature=f"f{i}") for i in range(70)]
    estimates = {cell.id: 60.0 for cell in cells}
    chosen = choosing.tonight(cells, ROTATING, NOW.date(), estimates, Budget(2, 2), {})
    assert len(chosen.cells) == 4
    assert "takes 5 minutes a night with 2 at a time" in capsys.readouterr().err
    enough = choosing.tonight(cells, ROTATING, NOW.date(), estimates, Budget(5, 2), {})
    assert len(enough.cells) == 10
    assert capsys.readouterr().err == ""


def test_unstable_cells_come_first_in_a_night() -> None:
    cells = [make_cell(feature=f"f{i}") for i in range(70)]
    estimates = {cell.id: 60.0 for cell in cells}
    seen = {cells[50].id: Seen(NOW.date(), unstable=True)}
    chosen = choosing.tonight(cells, ROTATING, NOW.date(), estimates, Budget(4, 1), seen)
    assert chosen.reasons[chosen.cells[0].id] == "unstable"
    assert chosen.cells[0] == cells[50]


def test_a_cell_longer_than_the_budget_is_left_out_however_many_run_at_once() -> None:
    cells = [make_cell(feature="short"), make_cell(feature="long")]
    estimates = {cells[0].id: 50.0, cells[1].id: 100.0}
    assert choosing.fitting(cells, estimates, Budget(1, 8)) == [cells[0]]
    with pytest.raises(NothingSelectedError, match=r"at least 0\.8 minutes"):
        choosing.fitting(cells, estimates, Budget(0.5, 8))


def test_every_chosen_cell_has_a_reason(tmp_path: object) -> None:
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    for arguments in (
        ["--select", "nightly", "--budget", "30", "--date", "2026-11-21"],
        ["--select", "pr", "--budget", "5"],
        ["qwen3/*/cann-9.1.0/a2"],
        [],
    ):
        chosen = choosing.choose(cli.parse(["e2e", *arguments]), store, 2)
        assert {cell.id for cell in chosen.cells} == set(chosen.reasons)
        assert all(chosen.reasons.values())
        assert len(chosen.plan.jobs) == len(chosen.cells)


def test_what_must_run_is_in_every_budget_of_the_selection(tmp_path: object) -> None:
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    chosen = choosing.choose(cli.parse(["e2e", "--select", "pr", "--budget", "3"]), store, 1)
    claims = matrix.load()
    assert matrix.required(claims.selections["pr"], chosen.cells[0])


def test_seven_nights_choose_every_supported_cell_pairs_among_them(tmp_path: object) -> None:
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    claims = matrix.load()
    found: set[str] = set()
    for number in range(7):
        day = str(date(2026, 11, 21) + timedelta(days=number))
        options = cli.parse(["e2e", "--select", "nightly", "--date", day])
        night = [cell.id for cell in choosing.select(options, claims, store, 1).cells]
        assert len(set(night)) == len(night)
        found |= set(night)
    supported = [cell.id for cell in matrix.everything(claims) if cell.unsupported is None]
    assert any("+" in id_ for id_ in supported)
    assert found == set(supported)
