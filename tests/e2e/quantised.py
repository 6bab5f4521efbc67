"""Quantised checkpoints: how far they are from the float model, and what computed them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e import device
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import Engine, Run, start
from tests.e2e.generation import greedy
from tests.e2e.reference import Reference, Scored

OPERATORS: Mapping[str, tuple[str, ...]] = {
    "W8A8": ("aclnnAscendQuant", "aclnnQuantMatmul"),
    "W8A8_DYNAMIC": ("aclnnDynamicQuant", "aclnnQuantMatmul"),
    "W8A8_MXFP8": ("aclnnDynamicMxQuant", "aclnnQuantMatmul"),
    "W4A4_MXFP4": ("aclnnDynamicMxQuant", "aclnnQuantMatmul"),
    "W4A8_DYNAMIC": ("aclnnWeightQuantBatchMatmul",),
    "W8A16": ("aclnnWeightQuantBatchMatmul",),
    "W4A16": ("aclnnWeightQuantBatchMatmul",),
}
"""Beginnings of names of operators: what quantises inputs, if anything, and the product."""

GROUPED = "aclnnGroupedMatmul"
"""The same of the product of experts."""


def base(ctx: CellContext) -> Outcome:
    """The float model's own texts, read by the quantised one, and continued."""
    how = ctx.model["checkpoint"]["quantisation"]
    scheme, cache = str(how["scheme"]), how.get("cache")
    bounds = ctx.parameter("bounds", {})[f"{scheme}+{cache}" if cache else scheme]
    length = int(ctx.parameter("max_tokens", 16))
    references = {name: Reference(ctx.checkpoint / name) for name in ("float", "dequantised")}
    told = references["float"].decisive(int(ctx.parameter("prompts", 8)), length)
    with start(ctx) as engine:
        run = engine.generate([e.tokens for e in told], greedy(length, prompt_logprobs=0))
        proof = engine.proof_of_attention(run, apart=bool(cache))
        proof |= proof_of_products(run, *quantised_layers(engine), scheme)
        if cache:
            proof |= proof_of_cache(run, engine.layers, cache_specs(engine))
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


CACHE_OPERATORS = ("aclnnQuantize", "aclnnAscendAntiQuant")
"""What makes int8 of keys and values, and numbers of int8."""


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


def cache_specs(engine: Engine) -> list[CacheSpec]:
    """How a block of each group of layers lies in memory, and how large it would be unquantised."""
    import dataclasses

    dtype = engine.config.model_config.dtype
    found = [group.kv_cache_spec for group in engine.core.scheduler.kv_cache_config.kv_cache_groups]
    return [
        CacheSpec(
            str(spec.dtype).removeprefix("torch."),
            int(spec.page_size_bytes),
            int(dataclasses.replace(spec, dtype=dtype).page_size_bytes),
        )
        for spec in found
    ]


@dataclass(frozen=True)
class CacheSpec:
    """One layer's block of the cache: its data type, bytes, and bytes in the model's data type."""

    dtype: str
    block_bytes: int
    float_bytes: int


def proof_of_cache(run: Run, layers: int, specs: Sequence[CacheSpec]) -> dict[str, object]:
    """Require a cache of int8 in half the bytes, and the operators that write and read one.

    A layer quantises keys and values in each step, attends all requests with one new token at
    once, over int8, and restores keys and values of every other request.

    Raises:
        GateFailed: the cache is another, or the launches are not those.
    """
    require(bool(specs), "the engine has no cache")
    for spec in specs:
        require(
            spec.dtype == "int8" and 2 * spec.block_bytes == spec.float_bytes,
            f"a block of the cache is {spec.block_bytes} bytes of {spec.dtype}, and would be "
            f"{spec.float_bytes} unquantised; int8 in half of that is wanted",
        )
    proof: dict[str, object] = {
        "cache_dtype": specs[0].dtype,
        "cache_block_bytes": [spec.block_bytes for spec in specs],
        "cache_block_bytes_unquantised": [spec.float_bytes for spec in specs],
    }
    if run.work is None:
        return proof
    counts = [list(step.tokens.values()) for step in run.steps]
    over_int8 = sum(1 in step for step in counts)
    restored = sum(count > 1 for step in counts for count in step)
    require(over_int8 > 0, "no step had a request with one new token, which reads int8")
    expected = {
        CACHE_OPERATORS[0]: 2 * layers * len(run.steps),
        CACHE_OPERATORS[1]: 2 * layers * restored,
        device.ATTENTION: layers * (over_int8 + restored),
    }
    for operator, launches in expected.items():
        count = run.work.matching(operator)
        require(count == launches, f"{count} launches of {operator}*, not {launches}")
        proof[operator] = count
    return proof | {"attention_launches_over_int8": layers * over_int8}


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
