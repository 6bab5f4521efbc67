"""LoRA: several adapters and the base model in one batch, adapters that come and go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e import compare
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import Engine, Run, start
from tests.e2e.generation import greedy
from tests.e2e.reference import Reference, Scored

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The layers that the adapters change: every product of a decoder layer."""


def lora(ctx: CellContext) -> Outcome:
    """Each answer is that of transformers with the adapter merged into the weights."""
    from vllm.lora.request import LoRARequest

    length, count = int(ctx.parameter("max_tokens", 12)), int(ctx.parameter("prompts", 2))
    rank = int(ctx.feature["engine"]["max_lora_rank"])
    base = Reference(ctx.checkpoint)
    made = {
        name: make(base, ctx.workdir / name, own_rank, seed)
        for name, own_rank, seed in (("first", rank, 1), ("second", rank // 2, 2), ("third", 2, 3))
    }
    requests = {
        name: LoRARequest(name, number, str(adapter))
        for number, (name, (adapter, _)) in enumerate(made.items(), 1)
    }
    expected = {
        name: Reference(merged).decisive(count, length) for name, (_, merged) in made.items()
    }
    expected["base"] = base.decisive(count, length)
    with start(ctx) as engine:
        batch = ("first", "base", "second")
        together = _ask(engine, batch, expected, requests, length)
        proof = engine.proof_of_attention(together)
        proof |= proof_of_one_batch([len(step.tokens) for step in together.steps], 3 * count)
        _add(engine, requests["third"])
        require(engine.llm.llm_engine.remove_lora(1), "the first adapter could not be unloaded")
        loaded = engine.llm.llm_engine.list_loras()
        require(loaded == {2, 3}, f"adapters {loaded} are loaded; 2 and 3 should be")
        later = _ask(engine, ("third", "base"), expected, requests, length)
        proof["error_of_wrong_rank"] = _refused(engine, base, ctx.workdir / "large", 2 * rank)
        after = _ask(engine, ("second",), expected, requests, length)
    names = [*batch, "third", "base", "second"]
    found = [t for run in (together, later, after) for t in run.tokens]
    wanted = [e.continuation for name in names for e in expected[name]]
    equal = compare.equal_tokens(found, wanted, "tokens with adapters")
    agreement = compare.close_logprobs(
        [v for run in (together, later, after) for row in run.logprobs for v in row],
        [v for name in names for e in expected[name] for v in e.continuation_logprobs],
        ctx.dtype,
    )
    proof |= proof_of_difference(base, {name: expected[name] for name in made}, length)
    return Outcome(
        metrics={
            "tokens_equal": (equal, "tokens"),
            "logprob_difference_max": (agreement.largest, "nats"),
            "adapters": (len(made), "adapters"),
        },
        proof=proof,
        samples=[{"tokens": compare.digest(t)} for t in found],
        timings={**engine.timings, "reference": base.seconds},
    )


def make(base: Reference, folder: Path, rank: int, seed: int) -> tuple[Path, Path]:
    """Let peft write an adapter of seeded weights, and the checkpoint with it merged in.

    Returns:
        The adapter's folder, and the merged checkpoint's.
    """
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = transformers.AutoConfig.from_pretrained(base.checkpoint)
    cls = getattr(transformers, config.architectures[0])
    model = cls.from_pretrained(base.checkpoint, dtype=torch.float32)
    changed = get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS), bias="none"),
    )
    for name, weight in changed.named_parameters():
        if "lora_" in name:  # peft begins with B = 0, which changes nothing
            torch.nn.init.normal_(weight, std=0.5 / weight.shape[-1] ** 0.5)
    changed.save_pretrained(folder / "adapter")
    changed.merge_and_unload().save_pretrained(folder / "merged")
    base.tokenizer.save_pretrained(folder / "merged")
    return folder / "adapter", folder / "merged"


def proof_of_one_batch(sizes: Sequence[int], requests: int) -> dict[str, object]:
    """Require that some step computed tokens of all requests, so of all adapters, together.

    Raises:
        GateFailed: no step did.
    """
    require(
        max(sizes, default=0) == requests,
        f"the largest step had {max(sizes, default=0)} requests; {requests} were asked at once",
    )
    return {"requests_in_one_step": requests}


def proof_of_difference(
    base: Reference, adapted: dict[str, list[Scored]], length: int
) -> dict[str, object]:
    """Require that each adapter's answers differ from the base model's to the same prompts.

    Raises:
        GateFailed: an adapter changes no answer.
    """
    for name, answers in adapted.items():
        plain = [e.continuation for e in base.greedy([e.prompt for e in answers], length)]
        require(
            plain != [e.continuation for e in answers],
            f"the adapter {name!r} changes no answer, so equality with it shows nothing",
        )
    return {"adapters_unlike_base": len(adapted)}


def _ask(
    engine: Engine,
    names: Sequence[str],
    expected: dict[str, list[Scored]],
    requests: dict[str, Any],
    length: int,
) -> Run:
    inputs = [{"prompt_token_ids": e.prompt} for name in names for e in expected[name]]
    adapters = [requests.get(name) for name in names for _ in expected[name]]
    return engine.measure(
        lambda: engine.llm.generate(inputs, greedy(length), lora_request=adapters, use_tqdm=False)
    )


def _add(engine: Engine, request: Any) -> None:
    require(engine.llm.llm_engine.add_lora(request), f"{request.lora_name} could not be loaded")


def _refused(engine: Engine, base: Reference, folder: Path, rank: int) -> str:
    """Offer an adapter of a rank that the engine was not started for; return its refusal."""
    from vllm.lora.request import LoRARequest

    adapter, _ = make(base, folder, rank, 4)
    try:
        engine.llm.llm_engine.add_lora(LoRARequest("large", 9, str(adapter)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to say what is wrong
        words = str(error)
        require("rank" in words and str(rank) in words, f"the refusal does not say why: {words!r}")
        return words
    require(False, f"an adapter of rank {rank} was taken")
    return ""
