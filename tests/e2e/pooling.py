"""Bodies of the pooling runner: one vector, or one score, per prompt, per token or per pair."""

from __future__ import annotations

from collections.abc import Sequence
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


def tokens(ctx: CellContext) -> Outcome:
    """One vector, or the classification head's numbers, for each token of a prompt."""
    from vllm import PoolingParams
    from vllm.config import PoolerConfig

    task = {"embed": "token_embed", "classify": "token_classify"}[str(ctx.model["task"])]
    reference = Reference(ctx.checkpoint)
    asked = prompts.encode(reference.tokenizer, prompts.SHORT[: int(ctx.parameter("prompts", 8))])
    params = PoolingParams(use_activation=task == "token_embed")  # vectors of length one
    with start(ctx, runner="pooling", pooler_config=PoolerConfig(task=task)) as engine:
        inputs = [{"prompt_token_ids": prompt} for prompt in asked]
        run = engine.measure(
            lambda: engine.llm.encode(
                inputs, pooling_task=task, pooling_params=params, use_tqdm=False
            )
        )
        proof = _proof(engine, run)
    rows = [output.outputs.data.float().tolist() for output in run.outputs]
    proof |= {"task": task, **proof_of_rows(rows, [len(prompt) for prompt in asked])}
    found = [row for of_prompt in rows for row in of_prompt]
    expected = [row for prompt in asked for row in reference.by_token(prompt, task)]
    outcome = Outcome(proof=proof, timings={**engine.timings, "reference": reference.seconds})
    outcome.metrics["tokens"] = (len(found), "tokens")
    if task == "token_embed":
        cosine, difference = compare.close_vectors(found, expected, ctx.dtype)
        outcome.metrics["cosine_min"] = (cosine, "1")
    else:
        flat = [[value for row in of for value in row] for of in (found, expected)]
        difference = compare.close_logprobs(*flat, ctx.dtype, "scores").largest
    outcome.metrics["component_difference_max"] = (difference, "1")
    return outcome


def pairs(ctx: CellContext) -> Outcome:
    """How well each of several texts fits another: by one model, or by the angle of two vectors."""
    from vllm import PoolingParams

    reference = Reference(ctx.checkpoint)
    query, *texts = prompts.SHORT[: int(ctx.parameter("prompts", 8))]
    embeds = ctx.model["task"] == "embed"
    params = None if embeds else PoolingParams(use_activation=False)
    with start(ctx, runner="pooling") as engine:
        run = engine.measure(
            lambda: engine.llm.score(query, texts, pooling_params=params, use_tqdm=False)
        )
        proof = _proof(engine, run)
        pooling = str(proof["pooling"])
    found = [float(output.outputs.score) for output in run.outputs]
    if embeds:
        first, *others = (
            reference.embed(prompt, pooling)
            for prompt in prompts.encode(reference.tokenizer, [query, *texts])
        )
        expected = [sum(a * b for a, b in zip(first, other, strict=True)) for other in others]
    else:
        expected = [reference.scores(output.prompt_token_ids)[0] for output in run.outputs]
        proof |= proof_of_both(
            [output.prompt_token_ids for output in run.outputs],
            [prompts.encode(reference.tokenizer, [query, text]) for text in texts],
        )
    agreement = compare.close_logprobs(found, expected, ctx.dtype, "scores")
    apart = max(expected) - min(expected)
    require(apart > 0.01, f"the reference's scores differ by {apart:.4f} only, and show nothing")
    return Outcome(
        metrics={
            "pairs": (len(texts), "pairs"),
            "score_difference_max": (agreement.largest, "1"),
            "score_spread": (apart, "1"),
        },
        proof=proof | {"scored_by": "two vectors" if embeds else "one model"},
        timings={**engine.timings, "reference": reference.seconds},
    )


def proof_of_rows(rows: Sequence[Sequence[Any]], lengths: Sequence[int]) -> dict[str, object]:
    """Require one row for each token.

    Raises:
        GateFailed: there are more or fewer.
    """
    counts = [len(of_prompt) for of_prompt in rows]
    require(counts == list(lengths), f"{counts} rows for prompts of {list(lengths)} tokens")
    return {"rows": sum(counts)}


def proof_of_both(
    asked: Sequence[Sequence[int]], parts: Sequence[Sequence[Sequence[int]]]
) -> dict[str, object]:
    """Require that the model read both texts of each pair, in one prompt.

    Raises:
        GateFailed: a text's tokens are not among the prompt's.
    """
    for prompt, texts in zip(asked, parts, strict=True):
        missing = [text for text in texts if not set(text) <= set(prompt)]
        require(not missing, f"the prompt {list(prompt)} of a pair has not {missing}")
    return {"tokens_of_pairs": sum(map(len, asked))}


def _proof(engine: Engine, run: Run) -> dict[str, Any]:
    """Require that the pooling runner ran, with attention on the device."""
    model = engine.config.model_config
    require(model.runner_type == "pooling", f"the engine's runner is {model.runner_type!r}")
    pooling = str(model.pooler_config.seq_pooling_type)
    return {**engine.proof_of_attention(run), "runner": model.runner_type, "pooling": pooling}
