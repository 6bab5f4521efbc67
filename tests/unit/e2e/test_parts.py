"""Parts of a combined body fail where their feature was not on, whatever else is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.e2e.combined import _ordered
from tests.e2e.context import GateFailed
from tests.e2e.engine import Run, Step
from tests.e2e.parts import PARTS, AsyncScheduling, ChunkedPrefill, Part, Speculation, decode_steps


def run(*steps: dict[str, int], overlapping: bool = False) -> Run:
    found = [
        Step(tokens, 2 * i, 2 * i + (3 if overlapping else 1)) for i, tokens in enumerate(steps)
    ]
    return Run([], 1.0, found, None)


def part(kind: type[Part], name: str, **shared: Any) -> Any:
    return kind(SimpleNamespace(**shared), {"name": name})  # type: ignore[arg-type]


def engine(to_read: dict[str, int], steps: Run, budget: int = 32, on: bool = True) -> Any:
    scheduler = SimpleNamespace(max_num_batched_tokens=budget, async_scheduling=on)
    return SimpleNamespace(
        trace=SimpleNamespace(to_read=to_read, steps=steps.steps),
        config=SimpleNamespace(scheduler_config=scheduler),
        core=SimpleNamespace(batch_queue_size=2),
    )


def test_a_feature_that_changed_no_token_has_no_proof() -> None:
    with pytest.raises(GateFailed, match="changed no token"):
        part(Part, "lora", changed={"lora": 0})._changed()
    assert part(Part, "lora", changed={"lora": 2})._changed() == {"tokens_that_it_changed": 2}


def test_prompts_that_were_read_in_one_step_are_not_chunked() -> None:
    whole = run({"a": 150}, {"a": 1})
    with pytest.raises(GateFailed, match="the budget is 32"):
        part(ChunkedPrefill, "chunked-prefill", engine=engine({"a": 150}, whole)).prove()
    with pytest.raises(GateFailed, match="in one step"):
        part(ChunkedPrefill, "x", engine=engine({"a": 150}, run({"a": 30}), 100)).prove()
    short = engine({"a": 20}, run({"a": 20}, {"a": 1}))
    with pytest.raises(GateFailed, match="no prompt had more than 32"):
        part(ChunkedPrefill, "x", engine=short).prove()
    parts = engine({"a": 50}, run({"a": 32}, {"a": 18}, {"a": 1}))
    proof = part(ChunkedPrefill, "x", engine=parts).prove()
    assert proof["prompts_read_in_parts"] == 1


def test_steps_one_after_the_other_are_not_asynchronous() -> None:
    steps = [{"a": 1}] * 6
    for found, on in ((run(*steps), True), (run(*steps, overlapping=True), False)):
        shared = {"engine": engine({}, found, on=on), "run": found}
        with pytest.raises(GateFailed):
            part(AsyncScheduling, "async-scheduling", **shared).prove()
    found = run(*steps, overlapping=True)
    proof = part(AsyncScheduling, "x", engine=engine({}, found), run=found).prove()
    assert proof["overlapping_steps"] == 5


def test_steps_that_only_read_a_prompt_give_no_token() -> None:
    found = run({"a": 32}, {"a": 32}, {"a": 6, "b": 4}, {"a": 4, "b": 1})
    assert decode_steps(found, engine({"a": 70, "b": 4}, found)) == 4


@pytest.mark.parametrize("added", [(0.0, 0.0), (9.0, 0.0), (9.0, 5.0)])
def test_speculation_without_accepted_drafts_or_saved_steps_fails(
    added: tuple[float, float],
) -> None:
    found = run({"a": 4}, {"a": 1}, {"a": 1})
    output = SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5, 6, 7])])
    shared = {
        "added": {"drafted": added[0], "accepted": added[1]},
        "run": Run([output], 1.0, found.steps, None),
        "engine": engine({"a": 4}, found),
    }
    with pytest.raises(GateFailed):
        part(Speculation, "eagle", **shared).prove()


def test_a_feature_without_a_part_is_told_with_those_that_have_one() -> None:
    with pytest.raises(ValueError, match="tool-calls cannot be run next to another"):
        _ordered([{"name": "tool-calls"}, {"name": "lora"}])
    names = [name for name, _ in _ordered([{"name": "sleep-mode"}, {"name": "lora"}])]
    assert names == [name for name in PARTS if name in names]
