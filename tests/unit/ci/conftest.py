"""A small matrix of made-up cells, and what the tests of ci share."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import date
from typing import Literal

import pytest
from pydantic import JsonValue

from matrix import CannVersion, Cell, Feature, Hardware, Model

MakeCell = Callable[..., Cell]


def make_cell(
    body: str = "passes",
    *,
    feature: str | None = None,
    model: str = "tiny",
    family: str = "tiny",
    cann: str = "9.1.0",
    hardware: str = "a2",
    time_limit: int = 60,
    cards: int = 1,
    transport: Literal["inprocess", "http"] = "inprocess",
    engine: dict[str, JsonValue] | None = None,
) -> Cell:
    """A cell whose body is a function of `tests.unit.ci.bodies`."""
    return Cell(
        Model.model_validate(
            {
                "name": model,
                "title": model,
                "family": family,
                "description": "made up",
                "task": "generate",
                "architecture": "TinyForCausalLM",
                "checkpoint": {"kind": "hub", "repo": "nobody/nothing", "revision": "0"},
                "dtype": "float32",
                "max_model_len": 64,
            }
        ),
        Feature(
            name=feature or body.replace("_", "-"),
            title=body,
            description="made up",
            proof="made up",
            body=f"tests.unit.ci.bodies:{body}",
            applies_to=("generate",),
            time_limit=time_limit,
            cards=cards,
            transport=transport,
            engine=engine or {},
        ),
        CannVersion(version=cann, status="current", released=date(2026, 1, 1), source="made up"),
        Hardware(
            name=hardware,
            title=hardware,
            soc={"a2": "Ascend910B1", "a3": "Ascend910_9391"}[hardware],
            cards=8,
            evidence=("simulated",),
            memory_gib=64,
            image="chip",
            products=("Product",),
            source="made up for tests",
        ),
    )


@pytest.fixture
def cell() -> MakeCell:
    """Makes cells."""
    return make_cell


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """A shell lets what it runs in the background ignore interrupts, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
