"""Memory: an engine that sleeps gives it back, and one that has too little says so."""

from __future__ import annotations

from tests.e2e import compare, quantised
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import start
from tests.e2e.generation import compared, greedy
from tests.e2e.reference import Reference


def sleep(ctx: CellContext) -> Outcome:
    """Level 1 keeps weights on the host; level 2 drops them, and they are loaded again.

    Of a quantised model the tokens before are the reference, and the float model's prompts asked.
    """
    import torch

    length = int(ctx.parameter("max_tokens", 12))
    how = ctx.model["checkpoint"].get("quantisation")
    reference = Reference(ctx.checkpoint / "float" if how else ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 4)), length)
    asked = [e.prompt for e in expected]
    with start(ctx) as engine:
        taken: list[int] = []

        def note() -> None:
            torch.npu.synchronize()
            taken.append(torch.npu.memory_allocated())

        run = engine.generate(asked, greedy(length))
        note()  # what attention keeps for all steps, such as its mask, is there from now on
        weights = sum(engine.llm.apply_model(weight_bytes))
        layers = engine.config.compilation_config.static_forward_context.values()
        held = [x.kv_cache.untyped_storage() for x in layers if hasattr(x, "kv_cache")]
        caches = sum({storage.data_ptr(): storage.nbytes() for storage in held}.values())
        engine.llm.sleep(level=1)
        note()
        engine.llm.wake_up()
        note()
        first = engine.generate(asked, greedy(length))
        engine.llm.sleep(level=2)
        note()
        engine.llm.wake_up(tags=["weights"])
        note()
        engine.llm.collective_rpc("reload_weights")
        engine.llm.wake_up(tags=["kv_cache"])
        note()
        second = engine.generate(asked, greedy(length))
        proof = engine.proof_of_attention(run, apart=bool(how and how.get("cache")))
        proof |= proof_of_memory(taken, weights, caches)
        compare.equal_tokens(first.tokens, run.tokens, "tokens after level 1")
        compare.equal_tokens(second.tokens, run.tokens, "tokens after level 2 and a reload")
        if how:
            linear, experts = quantised.quantised_layers(engine)
            proof |= quantised.proof_of_products(second, linear, experts, str(how["scheme"]))
            return Outcome(proof=proof, timings=dict(engine.timings))
        return compared(ctx, engine, reference, run, expected, proof)


def too_little_memory(ctx: CellContext) -> Outcome:
    """An engine refuses to start with less memory than one request needs; the next one starts."""
    length = int(ctx.parameter("max_tokens", 8))
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 2)), length)
    said = ""
    try:
        with start(ctx, kv_cache_memory_bytes=1 << 12):
            pass
    except ValueError as error:
        said = str(error)
    proof = proof_of_shortage(said)
    with start(ctx) as engine:
        run = engine.generate([e.prompt for e in expected], greedy(length))
        proof |= engine.proof_of_attention(run)
        return compared(ctx, engine, reference, run, expected, proof)


def proof_of_shortage(said: str) -> dict[str, object]:
    """Require an error that speaks of the cache's memory and of an option that changes it.

    Raises:
        GateFailed: there was no error, or it does not help.
    """
    require(bool(said), "an engine started with 4 KiB for its KV cache")
    helps = "memory" in said and ("gpu_memory_utilization" in said or "max_model_len" in said)
    require(helps, f"the error does not say what to change: {said!r}")
    return {"error": said[:200]}


def proof_of_memory(taken: list[int], weights: int, caches: int) -> dict[str, object]:
    """Require that each sleep freed weights and caches, and each waking took them again.

    Args:
        taken: bytes on the device after the first run, asleep and awake at level 1, asleep at
            level 2, with weights alone, and with caches again.
        weights: bytes of the weights.
        caches: bytes of the KV cache.

    Raises:
        GateFailed: less was freed, or not the same was taken again.
    """
    start, asleep, awake, deep, partly, again = taken
    for level, left in ((1, asleep), (2, deep)):
        require(
            start - left >= weights,
            f"sleep of level {level} freed {start - left} bytes; the weights alone are {weights}",
        )
    # Weights and caches to the byte; what else a run left on the device need not return.
    least = min(awake - asleep, again - deep)
    require(least >= weights + caches, f"waking took less than was freed: {taken}")
    require(
        2 * (again - start) < weights,
        f"weights that were loaded again lie beside the first ones: {again - start} bytes more "
        f"than at the start, of {weights} bytes of weights",
    )
    require(
        weights <= partly - deep < again - deep,
        f"waking the weights alone took {partly - deep} bytes of {again - deep}",
    )
    return {
        "bytes_awake": start,
        "bytes_asleep_level_1": asleep,
        "bytes_asleep_level_2": deep,
        "weights_bytes": weights,
        "cache_bytes": caches,
    }


def weight_bytes(model: object) -> int:
    """Return the bytes of a model's weights, those that share memory counted once."""
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for p in model.parameters()  # type: ignore[attr-defined]
    }
    return sum(storages.values())
