"""The body of two features at once: one run in which both are on, with the proof of each.

Every feature is a `Part`: what it asks of the engine, of the prompts and of the sampling
parameters, how it changes which token is the right one, and what shows that it was on. What all
parts ask for together is one run, and each token of it is checked with the reference: it has to be
the likeliest that is left after every part has had its say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.e2e import compare
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import start
from tests.e2e.parts import PARTS
from tests.e2e.together import Shared

LENGTH = 16
"""Tokens of each answer."""

PROMPTS = 4
"""Requests in the batch."""


def pair(ctx: CellContext) -> Outcome:
    """Runs two features at once, and has both prove themselves."""
    shared = Shared(ctx, PROMPTS, LENGTH)
    parts = [PARTS[name](shared, feature) for name, feature in _ordered(ctx.feature["parts"])]
    shared.parts = parts
    for part in parts:
        part.prepare()
    settings: dict[str, Any] = {}
    for part in parts:
        settings |= part.settings()
    with start(ctx, **settings) as engine:
        shared.engine = engine
        for part in parts:
            part.before()
        shared.ask()
        proof: dict[str, Any] = shared.proof_of_work()
        for part in parts:
            proof[part.name] = part.prove()
    metrics = shared.judge()
    for part in parts:
        proof[part.name] |= part.judged()
        require(bool(proof[part.name]), f"{part.name} has no proof")
    return Outcome(
        metrics=metrics,
        proof=proof,
        samples=[{"tokens": compare.digest(tokens)} for tokens in shared.answers],
        timings={**engine.timings, "reference": shared.seconds},
    )


def _ordered(features: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The features in the order of PARTS, in which each may build on what those before it did."""
    by_name = {feature["name"]: feature for feature in features}
    unknown = sorted(set(by_name) - set(PARTS))
    if unknown:
        raise ValueError(
            f"{' and '.join(unknown)} cannot be run next to another feature; tests/e2e/parts.py "
            f"has {', '.join(PARTS)}"
        )
    return [(name, by_name[name]) for name in PARTS if name in by_name]
