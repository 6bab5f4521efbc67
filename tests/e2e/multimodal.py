"""The body of images and sounds: the same questions about several, next to transformers."""

from __future__ import annotations

from typing import Any

from tests.e2e import compare
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import start
from tests.e2e.generation import greedy
from tests.e2e.media import make
from tests.e2e.reference import Reference

QUESTIONS = ("What is there?", "Describe it in a word:")


def base(ctx: CellContext) -> Outcome:
    """Greedy answers to the same questions about different images or sounds."""
    length, count = int(ctx.parameter("max_tokens", 8)), int(ctx.parameter("prompts", 4))
    media = ctx.model["media"]
    kind, template = str(media["kind"]), str(media["prompt"])
    reference = Reference(ctx.checkpoint)
    asked = [(template.replace("{text}", QUESTIONS[i % 2]), i // 2) for i in range(count)]
    expected = [reference.seen(prompt, kind, item, length) for prompt, item in asked]
    for first, second in zip(expected[:-2], expected[2:], strict=True):
        apart = max(
            abs(a - b)
            for a, b in zip(first.continuation_logprobs, second.continuation_logprobs, strict=True)
        )
        require(apart > 0.01, "the reference answers the same about different inputs")
    inputs: list[dict[str, Any]] = [
        {"prompt": prompt, "multi_modal_data": {kind: make(kind, item)}} for prompt, item in asked
    ]
    with start(ctx, limit_mm_per_prompt={kind: 1}, skip_mm_profiling=True) as engine:
        run = engine.measure(lambda: engine.llm.generate(inputs, greedy(length), use_tqdm=False))
        proof = engine.proof_of_attention(run)
    read = [list(output.prompt_token_ids) for output in run.outputs]
    compare.equal_tokens(read, [e.prompt for e in expected], "tokens of the prompts")
    equal = compare.equal_tokens(run.tokens, [e.continuation for e in expected])
    agreement = compare.close_logprobs(
        [value for row in run.logprobs for value in row],
        [value for e in expected for value in e.continuation_logprobs],
        ctx.dtype,
    )
    proof |= {"media": kind, "prompt_tokens": [len(tokens) for tokens in read]}
    return Outcome(
        metrics={
            "prompts": (len(asked), "prompts"),
            "tokens_equal": (equal, "tokens"),
            "logprob_difference_max": (agreement.largest, "nats"),
            "logprob_difference_mean": (agreement.mean, "nats"),
        },
        proof=proof,
        samples=[
            {"prompt": compare.digest(e.prompt), "tokens": compare.digest(tokens), "equal": True}
            for e, tokens in zip(expected, run.tokens, strict=True)
        ],
        timings={**engine.timings, "reference": reference.seconds},
    )
