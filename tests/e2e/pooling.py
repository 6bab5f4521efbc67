"""Bodies of the pooling runner: one vector per prompt."""

from __future__ import annotations

from tests.e2e import compare, prompts
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import start
from tests.e2e.reference import Reference


def embedding(ctx: CellContext) -> Outcome:
    """One normalised vector per prompt, pooled as the engine says it pools."""
    reference = Reference(ctx.checkpoint)
    texts = prompts.SHORT[: int(ctx.parameter("prompts", 8))]
    asked = prompts.encode(reference.tokenizer, texts)
    with start(ctx, runner="pooling") as engine:
        inputs = [{"prompt_token_ids": prompt} for prompt in asked]
        run = engine.measure(lambda: engine.llm.embed(inputs, use_tqdm=False))
        model = engine.config.model_config
        pooling = str(model.pooler_config.seq_pooling_type)
        proof = engine.proof_of_attention(run)
        proof |= {"runner": model.runner_type, "pooling": pooling}
        require(model.runner_type == "pooling", f"the engine's runner is {model.runner_type!r}")
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
