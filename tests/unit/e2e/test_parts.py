"""Parts of a combined body fail where their feature was not on, whatever else is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.e2e import device
from tests.e2e.combined import _ordered
from tests.e2e.context import GateFailed
from tests.e2e.engine import Run, Step
from tests.e2e.parts import (
    PARTS,
    AsyncScheduling,
    ChunkedPrefill,
    Part,
    Sinks,
    SlidingWindow,
    Speculation,
    Suffix,
    decode_steps,
    moved,
)


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


def drafting(method: str) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(speculative_config=SimpleNamespace(method=method))
    )


def test_drafts_of_another_method_are_none_of_this() -> None:
    with pytest.raises(GateFailed, match="drafts are made by ngram"):
        part(Suffix, "suffix-speculation", engine=drafting("ngram")).prove()


def test_a_tree_that_learns_nothing_of_answers_is_no_suffix_decoding() -> None:
    shared = {"added": {"accepted": 5.0}, "asking": lambda: (None, {"accepted": 5.0})}
    with pytest.raises(GateFailed, match="earlier answers were not drafted from"):
        part(Suffix, "suffix-speculation", engine=drafting("suffix"), **shared).prove()


def test_a_window_that_holds_a_prompt_shows_nothing() -> None:
    def windowed(size: int) -> Any:
        text = SimpleNamespace(sliding_window=size)
        config = SimpleNamespace(model_config=SimpleNamespace(hf_text_config=text))
        scheduler = SimpleNamespace(kv_cache_config=SimpleNamespace(kv_cache_groups=[]))
        return SimpleNamespace(config=config, core=SimpleNamespace(scheduler=scheduler))

    shared = {"asked": [[1] * 40, [1] * 50]}
    with pytest.raises(GateFailed, match="holds a prompt of 40"):
        part(SlidingWindow, "sliding-window", engine=windowed(40), **shared).prove()
    proof = part(SlidingWindow, "sliding-window", engine=windowed(32), **shared).prove()
    assert (proof["window"], proof["shortest_prompt"]) == (32, 40)


@pytest.mark.parametrize("version", ["V3", "V4"])
def test_sinks_need_the_attention_that_takes_them(version: str) -> None:
    work = SimpleNamespace(launches={f"{device.ATTENTION}{version}": 6})
    sinks = part(Sinks, "attention-sinks", run=SimpleNamespace(work=work))
    if version == "V4":
        assert sinks.prove() == {"launches_with_sinks": 6}
    else:
        with pytest.raises(GateFailed, match="no attention was launched that takes sinks"):
            sinks.prove()


def test_a_model_that_says_the_same_without_shows_nothing() -> None:
    def says(*row: float) -> Any:
        return SimpleNamespace(rows=lambda _: torch.tensor([row]))

    shared: Any = SimpleNamespace(
        asked=[[1], [2]],
        adapters=[None, object()],
        reference=says(-1.0, -2.0),
        ctx=SimpleNamespace(dtype="float32"),
    )
    with pytest.raises(GateFailed, match=r"differ by 0\.0000 nats only"):
        moved(shared, says(-1.0, -2.0))
    assert moved(shared, says(-2.0, -1.0)) == pytest.approx(1.0)
