"""An expected failure is told while it counts, and an error from its day on."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

import matrix
from matrix.errors import Expired, UnknownReference
from matrix.schema import ExpectedFailure
from reports.expected import judge
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
    assert found.state == "failed"
    assert "expected until 2026-11-22" in found.reason
    assert "somebody" in found.reason
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
    assert "remove the entry" in found.reason


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
