"""An expected failure is told while it counts, and an error from its day on."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

import matrix
from matrix.errors import Expired, UnknownReference
from matrix.schema import ExpectedFailure
from reports import comment, outcome
from reports.expected import judge
from reports.record import Verdict
from reports.site import index
from reports.statuses import Status
from tests.unit.matrix.conftest import Data, data  # noqa: F401
from tests.unit.reports.conftest import CELL, NOW, record

ENTRY = ExpectedFailure(
    name="known",
    cells=(CELL,),
    reason="The operator is being fixed.",
    issue="https://example.org/1",
    owner="somebody",
    expires=NOW.date() + timedelta(days=1),
)
YAML = f"""expected:
  - name: known
    cells: [{CELL}]
    reason: The operator is being fixed.
    issue: https://example.org/1
    owner: somebody
    expires: 2026-11-22
"""


def failed() -> Status:
    return Status(CELL, "failed", "token 7", record(verdict="failed"))


def test_a_failure_that_is_expected_says_whose_it_is_and_until_when() -> None:
    found = judge(failed(), ENTRY, NOW)
    assert found.state == "expected-failure"
    assert found.label == "⚑ expected failure"
    assert index.letter(found) == "x"
    assert "expected by somebody until 2026-11-22" in found.reason
    assert "token 7" in found.reason


@pytest.mark.parametrize("state", ["failed", "passed"])
def test_from_its_day_on_it_is_an_error_whatever_ran(state: str) -> None:
    status = Status(CELL, state, "", record())  # type: ignore[arg-type]
    found = judge(status, ENTRY, NOW + timedelta(days=1))
    assert found.state == "error"
    assert "expired on 2026-11-22" in found.reason


def test_a_pass_that_was_not_expected_is_told() -> None:
    found = judge(Status(CELL, "passed", "", record()), ENTRY, NOW)
    assert found.state == "passed"
    assert "remove the row" in found.reason


def test_what_could_not_decide_stays_so() -> None:
    status = Status(CELL, "inconclusive", "", record(verdict="inconclusive"))
    found = judge(status, ENTRY, NOW)
    assert found.state == "inconclusive"
    assert "somebody" in found.reason


@pytest.mark.parametrize(
    ("verdict", "conclusion", "code"),
    [
        ("failed", "expected failure", 0),
        ("error", "expected failure", 0),
        ("passed", "unexpected pass", 1),
        ("inconclusive", "inconclusive", 4),
    ],
)
def test_what_it_makes_of_a_run(verdict: Verdict, conclusion: str, code: int) -> None:
    ran, expected = record(verdict=verdict), {CELL: ENTRY}
    assert outcome.exit_code([ran], 0, expected) == code
    told = outcome.document([ran], expected)
    assert told["summary"][conclusion] == 1
    (cell,) = told["cells"]
    assert (cell["verdict"], cell["conclusion"]) == (verdict, conclusion)
    assert cell["expected"]["owner"] == "somebody"
    assert cell["record"]["verdict"] == verdict, "a record says what happened"


def test_one_that_is_not_expected_counts_beside_it() -> None:
    other = record("qwen3/lora/cann-9.1.0/a2", verdict="failed")
    assert outcome.exit_code([record(verdict="failed"), other], 0, {CELL: ENTRY}) == 1


@pytest.mark.parametrize("kind", ["accuracy", "perf"])
def test_it_is_about_end_to_end_runs(kind: str) -> None:
    assert outcome.exit_code([record(verdict="failed", kind=kind)], 0, {CELL: ENTRY}) == 1


def test_a_comment_names_the_owner_and_the_row_to_remove() -> None:
    expected = {CELL: ENTRY}
    text = comment.render([record(verdict="failed")], expected=expected)
    assert "**1 expected failure.**" in text
    assert "⚑ expected failure |" in text
    assert "somebody until 2026-11-22; " in text
    text = comment.render([record()], expected=expected)
    assert "**1 unexpected pass.**" in text
    assert "remove the row from matrix/expected.yaml" in text
    assert "passed</summary>" not in text


def test_other_cells_are_left_as_they_are() -> None:
    status = failed()
    assert judge(status, None, NOW) is status


def test_loading_with_a_clock_refuses_what_has_expired(data: Data) -> None:  # noqa: F811
    data.replace("expected.yaml", "expected: []\n", YAML)
    assert "known" in matrix.load(data.root).expected
    matrix.load(data.root, date(2026, 11, 21))
    with pytest.raises(Expired) as caught:
        matrix.load(data.root, date(2026, 11, 22))
    assert caught.value.exit_code == 9
    assert "somebody removes the entry" in str(caught.value)


def test_it_is_about_a_cell_that_exists(data: Data) -> None:  # noqa: F811
    data.replace("expected.yaml", "expected: []\n", YAML.replace("qwen3/base", "qwen3/bose"))
    error = data.error()
    assert isinstance(error, UnknownReference)
    assert "Did you mean 'qwen3/base/cann-9.1.0/a2'?" in str(error)


def test_it_has_an_owner_and_a_day(data: Data) -> None:  # noqa: F811
    without = [line for line in YAML.splitlines() if "owner" not in line and "expires" not in line]
    data.replace("expected.yaml", "expected: []\n", "\n".join(without) + "\n")
    error = str(data.error())
    assert "owner: this key is missing" in error
    assert "expires: this key is missing" in error
