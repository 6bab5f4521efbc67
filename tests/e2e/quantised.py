"""Quantised checkpoints: how far they are from the float model, and what computed them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import Engine, Run, start
from tests.e2e.generation import greedy
from tests.e2e.reference import Reference, Scored

OPERATORS: Mapping[str, tuple[str, ...]] = {
    "W8A8": ("aclnnAscendQuant", "aclnnQuantMatmul"),
    "W8A8_DYNAMIC": ("aclnnDynamicQuant", "aclnnQuantMatmul"),
    "W8A8_MXFP8": ("aclnnDynamicMxQuant", "aclnnQuantMatmul"),
    "W4A8_DYNAMIC": ("aclnnWeightQuantBatchMatmul",),
    "W8A16": ("aclnnWeightQuantBatchMatmul",),
    "W4A16": ("aclnnWeightQuantBatchMatmul",),
}
"""Beginnings of names of operators: what quantises inputs, if anything, and the product."""

GROUPED = "aclnnGroupedMatmul"
"""The same of the product of experts."""


def base(ctx: CellContext) -> Outcome:
    """The float model's own texts, read by the quantised one, and continued."""
    scheme = str(ctx.model["checkpoint"]["quantisation"]["scheme"])
    bounds = ctx.parameter("bounds", {})[scheme]
    length = int(ctx.parameter("max_tokens", 16))
    references = {name: Reference(ctx.checkpoint / name) for name in ("float", "dequantised")}
    told = references["float"].decisive(int(ctx.parameter("prompts", 8)), length)
    with start(ctx) as engine:
        run = engine.generate([e.tokens for e in told], greedy(length, prompt_logprobs=0))
        proof = engine.proof_of_attention(run)
        proof |= proof_of_products(run, *quantised_layers(engine), scheme)
    found = logprobs(run)
    outcome = Outcome(proof=proof, timings=dict(engine.timings))
    for name, reference in references.items():
        scored = [
            reference.score(told_of.tokens, tokens)
            for told_of, tokens in zip(told, run.tokens, strict=True)
        ]
        outcome.metrics |= within(found, scored, name, float(bounds[name]))
        outcome.timings["reference"] = outcome.timings.get("reference", 0.0) + reference.seconds
    return outcome


def quantised_layers(engine: Engine) -> tuple[int, int]:
    """How many linear layers, and mixtures of experts, have no method of vLLM for float weights."""
    linear, experts = engine.llm.apply_model(_count)[0]
    return int(linear), int(experts)


def _count(model: Any) -> tuple[int, int]:
    from vllm.model_executor.layers.fused_moe import RoutedExperts, UnquantizedFusedMoEMethod
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

    def quantised(kind: type, plain: type) -> int:
        found = [module for module in model.modules() if isinstance(module, kind)]
        return sum(not isinstance(module.quant_method, plain) for module in found)

    return (
        quantised(LinearBase, UnquantizedLinearMethod),
        quantised(RoutedExperts, UnquantizedFusedMoEMethod),
    )


def proof_of_products(run: Run, linear: int, experts: int, scheme: str) -> dict[str, object]:
    """Require that each step launched the scheme's operators once for each quantised product.

    A mixture of experts has two products, which are grouped ones.

    Raises:
        GateFailed: no layer is quantised, or the launches are not products times steps.
    """
    require(linear > 0, "no linear layer of the model is quantised")
    proof: dict[str, object] = {"quantised_layers": linear, "quantised_experts": experts}
    if run.work is None:
        return proof
    *quantising, product = OPERATORS[scheme]
    products = dict.fromkeys(quantising, linear + 2 * experts) | {product: linear}
    if experts:
        products[GROUPED] = 2 * experts
    for operator, each in products.items():
        count, expected = run.work.matching(operator), each * len(run.steps)
        require(
            count == expected,
            f"{count} launches of {operator}* in {len(run.steps)} steps of {each} quantised "
            f"products, not {expected}: {dict(sorted(run.work.launches.items()))}",
        )
        proof[operator] = count
    return proof


def logprobs(run: Run) -> list[list[float]]:
    """The logprob of each token but the first: those of the prompt, then those generated."""
    rows = []
    for output, generated in zip(run.outputs, run.logprobs, strict=True):
        pairs = zip(output.prompt_logprobs[1:], output.prompt_token_ids[1:], strict=True)
        rows.append([float(row[token].logprob) for row, token in pairs] + generated)
    return rows


def within(
    found: Sequence[Sequence[float]], scored: Sequence[Scored], name: str, bound: float
) -> dict[str, tuple[float, str]]:
    """Require that logprobs are within a bound of a reference's, on average.

    Returns:
        Mean and largest difference (nats), the bound, and the ratio of the perplexities of all
        texts.

    Raises:
        GateFailed: they are not, are no numbers, or there is nothing to compare.
    """
    ours = [value for row in found for value in row]
    theirs = [value for row in scored for value in row.logprobs]
    require(
        len(ours) == len(theirs) > 0,
        f"{len(ours)} logprobs; the {name} reference has {len(theirs)}",
    )
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = math.fsum(map(abs, differences)) / len(differences)
    require(
        mean <= bound,  # false for what is not a number, too
        f"logprobs differ from the {name} model's by {mean:.4f} nats on average over "
        f"{len(differences)} tokens; {bound} is allowed",
    )
    return {
        f"{name}_difference_mean": (mean, "nats"),
        f"{name}_difference_max": (max(map(abs, differences)), "nats"),
        f"{name}_difference_bound": (bound, "nats"),
        f"{name}_perplexity_ratio": (math.exp(-math.fsum(differences) / len(differences)), "1"),
    }
