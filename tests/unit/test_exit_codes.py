"""The exit codes: each has a row in the documentation, and every error ends with one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import accuracy.errors
import ci.errors
import ci.github.errors
import matrix.errors
import perf.errors
import reports.errors
from ci.environment import ROOT
from ci.errors import CiError
from matrix.errors import HarnessError

MODULES = (accuracy.errors, ci.errors, ci.github.errors, matrix.errors, perf.errors, reports.errors)


def codes() -> dict[str, int]:
    """Name to exit code, as matrix/errors.py has them."""
    return {
        name: value
        for name, value in vars(matrix.errors).items()
        if name.isupper() and isinstance(value, int)
    }


def raised() -> Iterator[type[HarnessError] | type[CiError]]:
    for module in MODULES:
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, HarnessError | CiError):
                yield found


def rows(file: Path) -> set[int]:
    """The codes that the rows of a table speak of; their first column has nothing else."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [re.match(r"\| ([\d, 、]+) \|", line) for line in lines]
    return {int(code) for match in found if match for code in re.findall(r"\d+", match[1])}


def test_no_two_have_the_same_code() -> None:
    assert len(set(codes().values())) == len(codes()) >= 11


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_readme_has_a_row_for_each_and_no_other(name: str) -> None:
    assert rows(ROOT / name) == set(codes().values())


def test_every_error_ends_with_one_of_them() -> None:
    found = {error.__name__: error.exit_code for error in raised()}
    assert set(found.values()) <= set(codes().values())
    assert found["ConflictError"] != found["StoreError"]


def test_the_runs_say_the_same_as_the_matrix() -> None:
    ours = {name: value for name, value in vars(ci.errors).items() if name in codes()}
    assert ours == {name: codes()[name] for name in ours}
    assert len(ours) == 6
