"""Bodies of the pooling runner: one vector, or one score, per prompt."""

from __future__ import annotations

from typing import Any

from tests.e2e import compare, prompts
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import Engine, Run, start
from tests.e2e.reference import Reference


def embedding(ctx: CellContext) -> Outcome:
    """One normalised vector per prompt, pooled as the engine says it pools."""
    reference = Reference(ctx.checkpoint)
    texts = prompts.SHORT[: int(ctx.parameter("prompts", 8))]
    asked = prompts.encode(reference.tokenizer, texts)
    with start(ctx, runner="pooling") as engine:
        inputs = [{"prompt_token_ids": prompt} for prompt in asked]
        run = engine.measure(lambda: engine.llm.embed(inputs, use_tqdm=False))
        proof = _proof(engine, run)
        pooling = str(proof["pooling"])
    found = [list(map(float, output.outputs.embedding)) for output in run.outputs]
    expected = [reference.embed(prompt, pooling) for prompt in asked]
    cosine, difference = compare.close_vectors(found, expected, ctx.dtype)
    return Outcome(
        metrics={
            "prompts": (len(asked), "prompts"),
            "cosine_min": (cosine, "1"),
            "component_difference_max": (difference, "1"),
        },
        proof=proof,
        samples=[{"prompt": compare.digest(prompt)} for prompt in asked],
        timings={**engine.timings, "reference": reference.seconds},
    )


def scoring(ctx: CellContext) -> Outcome:
    """The classification head's numbers for each prompt, before any activation."""
    from vllm import PoolingParams

    reference = Reference(ctx.checkpoint)
    texts = prompts.SHORT[: int(ctx.parameter("prompts", 8))]
    asked = prompts.encode(reference.tokenizer, texts)
    with start(ctx, runner="pooling") as engine:
        inputs = [{"prompt_token_ids": prompt} for prompt in asked]
        params = PoolingParams(use_activation=False)
        run = engine.measure(
            lambda: engine.llm.classify(inputs, pooling_params=params, use_tqdm=False)
        )
        proof = _proof(engine, run)
    found = [float(value) for output in run.outputs for value in output.outputs.probs]
    expected = [value for prompt in asked for value in reference.scores(prompt)]
    agreement = compare.close_logprobs(found, expected, ctx.dtype, "scores")
    apart = max(expected) - min(expected)
    require(apart > 0.1, f"the reference's scores differ by {apart:.4f} only, and show nothing")
    return Outcome(
        metrics={
            "prompts": (len(asked), "prompts"),
            "score_difference_max": (agreement.largest, "1"),
            "score_spread": (apart, "1"),
        },
        proof=proof,
        samples=[{"prompt": compare.digest(prompt)} for prompt in asked],
        timings={**engine.timings, "reference": reference.seconds},
    )


def _proof(engine: Engine, run: Run) -> dict[str, Any]:
    """Require that the pooling runner ran, with attention on the device."""
    model = engine.config.model_config
    require(model.runner_type == "pooling", f"the engine's runner is {model.runner_type!r}")
    pooling = str(model.pooler_config.seq_pooling_type)
    return {**engine.proof_of_attention(run), "runner": model.runner_type, "pooling": pooling}
