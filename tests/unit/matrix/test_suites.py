"""Suites of accuracy: their cells exist, and each cell is judged by one of them."""

from __future__ import annotations

import matrix
from tests.unit.matrix.conftest import Data


def test_a_suite_names_cells_that_exist(data: Data) -> None:
    data.replace("accuracy.yaml", "smollm2-135m/base", "smollm3-135m/base")
    told = str(data.error())
    assert "accuracy[0].cells: no cell is called, or matched by, 'smollm3-135m/base" in told
    assert "Did you mean 'smollm2-135m/base/cann-" in told


def test_a_cell_belongs_to_one_suite(data: Data) -> None:
    data.replace("accuracy.yaml", "cells: [qwen3/base", "cells: ['smollm2*/base/*', qwen3/base")
    told = str(data.error())
    assert "smollm2-135m/base/cann-9.1.0/a2 belongs to the suite 'real-model' already" in told


def test_a_threshold_that_is_missing_is_named(data: Data) -> None:
    data.replace("accuracy.yaml", "agreement:", "agreements:")
    assert "unknown key 'agreements'. Did you mean 'agreement'?" in str(data.error())


def test_a_task_is_asked_once(data: Data) -> None:
    data.replace("accuracy.yaml", "name: truthfulqa-mc1", "name: hellaswag")
    assert "the same task stands there twice" in str(data.error())


def test_every_suite_with_questions_is_of_a_real_model() -> None:
    claims = matrix.load()
    for suite in claims.accuracy.values():
        for cell in matrix.select(claims, matrix.expand(claims), suite.cells):
            assert not (suite.tasks and cell.model.stand_in), cell.id
