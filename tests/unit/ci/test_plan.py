"""Plans: estimates from earlier runs, groups by environment, and the order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ci import plan
from ci.plan import Group, Job, Plan

from .conftest import make_cell


@dataclass(frozen=True)
class Ran:
    cell: str
    seconds: float
    verdict: str = "passed"


def test_an_estimate_is_the_median_of_the_cells_own_passed_runs() -> None:
    cell = make_cell()
    runs = [Ran(cell.id, 4.0), Ran(cell.id, 6.0), Ran(cell.id, 100.0), Ran(cell.id, 1.0, "error")]
    assert plan.estimate([cell], runs) == {cell.id: 6.0}


def test_a_new_cell_is_estimated_from_its_feature_and_else_by_a_constant() -> None:
    new = make_cell(feature="lora", model="new")
    same_feature = make_cell(feature="lora", model="old")
    served = make_cell(feature="serving", transport="http")
    runs = [Ran(same_feature.id, 8.0), Ran(make_cell(feature="base").id, 2.0)]
    assert plan.estimate([new], runs)[new.id] == 8.0
    assert plan.estimate([new], runs[1:])[new.id] == plan.DEFAULT_ESTIMATE_S["inprocess"]
    assert plan.estimate([served], runs)[served.id] == plan.DEFAULT_ESTIMATE_S["http"]


def test_cells_are_grouped_by_environment_and_start_longest_first() -> None:
    cells = [
        make_cell(feature="short"),
        make_cell(feature="long"),
        make_cell(feature="short", cann="8.5.0"),
        make_cell(feature="long", hardware="a3"),
        make_cell(feature="four-cards", cards=4),
    ]
    seconds = {"short": 1.0, "long": 9.0, "four-cards": 3.0}
    made = plan.make(cells, {cell.id: seconds[cell.feature.name] for cell in cells})
    assert [(g.chip, g.cann, g.devices) for g in made.groups] == [
        ("Ascend910B1", "9.1.0", 4),
        ("Ascend910_9391", "9.1.0", 2),
        ("Ascend910B1", "8.5.0", 2),
    ]
    assert [job.estimate for job in made.groups[0].jobs] == [9.0, 3.0, 1.0]


def test_the_makespan_is_that_of_the_slots() -> None:
    jobs = tuple(Job(make_cell(feature=f"f{i}"), s) for i, s in enumerate([5.0, 4.0, 3.0, 3.0]))
    made = Plan((Group("chip", "9.1.0", 2, jobs),))
    assert made.makespan(1) == 15.0
    assert made.makespan(2) == 8.0
    assert made.makespan(99) == 5.0


def test_an_empty_plan_takes_no_time() -> None:
    assert plan.make([], {}).makespan(2) == 0.0


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_every_cell_is_planned_once(parallel: int) -> None:
    cells = [make_cell(feature=f"f{i}", cann=c) for i in range(5) for c in ("8.5.0", "9.1.0")]
    made = plan.make(cells, {cell.id: float(i) for i, cell in enumerate(cells)})
    assert sorted(job.cell.id for job in made.jobs) == sorted(cell.id for cell in cells)
    assert made.makespan(parallel) * parallel >= sum(job.estimate for job in made.jobs)
