"""Bodies of speculative decoding: every method gives the tokens of plain greedy decoding, and
vLLM's own metrics prove that it drafted, and that some drafts were accepted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tests.e2e import compare, drafters, prompts
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import Engine, start
from tests.e2e.generation import compared, greedy, sampled, sampled_logprobs
from tests.e2e.reference import Reference, Scored

COUNTERS = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
"""vLLM's counters, each behind `vllm:spec_decode_`."""


def ngram(ctx: CellContext) -> Outcome:
    """Drafts are what followed the last tokens where they stood before in the prompt or answer."""
    length, width = int(ctx.parameter("max_tokens", 32)), int(ctx.parameter("drafts", 3))
    reference = Reference(ctx.checkpoint)
    asked = repeating(reference, int(ctx.parameter("prompts", 4)), length)
    settings = {
        "method": "ngram",
        "num_speculative_tokens": width,
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 1,
    }
    return _speculate(ctx, reference, asked, settings, length)


def suffix(ctx: CellContext) -> Outcome:
    """Drafts are what a tree of suffixes says of prompts and answers, also those of before.

    Prompts that stand in no other are asked twice: only what was kept of the first answers tells
    the second ones.
    """
    length, width = int(ctx.parameter("max_tokens", 32)), int(ctx.parameter("drafts", 8))
    reference = Reference(ctx.checkpoint)
    count = int(ctx.parameter("prompts", 4))
    settings = {"method": "suffix", "num_speculative_tokens": width}
    told = reference.decisive(count, length)
    with start(ctx, speculative_config=settings) as engine:
        rounds = []
        for _ in range(2):
            before = _counters(engine)[2]
            run = engine.generate([e.prompt for e in told], greedy(length))
            rounds.append(_counters(engine)[2] - before)
            compare.equal_tokens(run.tokens, [e.continuation for e in told], "tokens")
    asked = repeating(reference, count, length)
    outcome = _speculate(ctx, reference, asked, settings, length, learns=True)
    outcome.proof |= proof_of_memory_of_answers(rounds, count * length)
    return outcome


def proof_of_memory_of_answers(accepted: Sequence[float], tokens: int) -> dict[str, object]:
    """Require that answers that were given before were drafted from, for most of their tokens.

    Args:
        accepted: tokens accepted when prompts were asked for the first and the second time.
        tokens: tokens of all answers.

    Raises:
        GateFailed: the second time was hardly better than the first.
    """
    first, second = accepted
    require(
        2 * (second - first) > tokens,
        f"{first:.0f} drafted tokens were accepted when prompts were new, {second:.0f} of {tokens} "
        "when they were asked again: earlier answers were not drafted from",
    )
    return {"accepted_when_new": first, "accepted_when_asked_again": second}


def draft_model(ctx: CellContext) -> Outcome:
    """A model of its own drafts; accepted is exactly what the reference says that it guesses."""
    length, width = int(ctx.parameter("max_tokens", 24)), int(ctx.parameter("drafts", 3))
    reference = Reference(ctx.checkpoint)
    folder = ctx.workdir / "draft"
    settings = drafters.perturbed(reference, folder, float(ctx.parameter("noise", 0.1)))
    asked = reference.decisive(int(ctx.parameter("prompts", 4)), length + width)
    guesses = Reference(folder)
    accepted = sum(
        would_accept(
            [row[0][0] for row in guesses.score(e.prompt, e.continuation).continuation_top],
            e.continuation,
            length,
            width,
        )
        for e in asked
    )
    settings |= {"num_speculative_tokens": width}
    outcome = _speculate(ctx, reference, [e.cut(length) for e in asked], settings, length)
    found = outcome.proof["accepted_tokens"]
    require(
        found == accepted,
        f"{found} drafts were accepted; of what this draft model says after the same tokens, "
        f"computed by the reference, {accepted} are right",
    )
    outcome.proof["accepted_by_reference"] = accepted
    return outcome


def head(ctx: CellContext) -> Outcome:
    """Heads on the target's hidden states draft: Medusa's, EAGLE's or EAGLE-3's."""
    length, width = int(ctx.parameter("max_tokens", 24)), int(ctx.parameter("drafts", 3))
    reference = Reference(ctx.checkpoint)
    asked = reference.decisive(int(ctx.parameter("prompts", 4)), length)
    make = {"medusa": drafters.medusa, "eagle": drafters.eagle, "eagle3": drafters.eagle3}
    kind = str(ctx.parameter("head", "eagle"))
    settings = make[kind](reference, ctx.workdir / kind, learnt(asked), width)
    settings |= {"num_speculative_tokens": width}
    return _speculate(ctx, reference, asked, settings, length)


def mtp(ctx: CellContext) -> Outcome:
    """The model's own layers for multi-token prediction draft."""
    length, width = int(ctx.parameter("max_tokens", 24)), int(ctx.parameter("drafts", 2))
    reference = Reference(ctx.checkpoint)
    asked = reference.decisive(int(ctx.parameter("prompts", 4)), length)
    folder = ctx.workdir / "with-mtp"
    settings = drafters.mtp(reference, folder, learnt(asked)) | {"num_speculative_tokens": width}
    ctx = dataclasses.replace(ctx, checkpoint=folder)
    return _speculate(ctx, reference, asked, settings, length)


def learnt(asked: Sequence[Scored]) -> list[list[int]]:
    """The sequences that heads are fitted to: every other one that is asked for."""
    return [scored.tokens for scored in asked[::2]]


def repeating(reference: Reference, count: int, length: int) -> list[Scored]:
    """Prompts in which the answer stands already, with the reference's answers to them."""
    told = reference.greedy(prompts.encode(reference.tokenizer, prompts.SHORT[:count]), length)
    return reference.greedy([[*e.prompt, *e.continuation, *e.prompt] for e in told], length)


def would_accept(guesses: Sequence[int], tokens: Sequence[int], length: int, width: int) -> int:
    """How many drafts speculation accepts until `length` tokens are there.

    A draft counts only as long as all before it were right, so that each guess is the draft
    model's after the true tokens.

    Args:
        guesses: the draft model's token at each position of the answer, after the true ones.
        tokens: the answer, at least `width` tokens longer than `length`.
        length: tokens asked for.
        width: drafts a step.
    """
    known, accepted = 1, 0  # the first token comes without a draft
    while known < length:
        right = 0
        while right < width and guesses[known + right] == tokens[known + right]:
            right += 1
        accepted += right
        known += right + 1
    return accepted


def proof_of_drafts(counted: Sequence[float], steps: int, tokens: int) -> dict[str, object]:
    """Require that tokens were drafted, and that some drafts were accepted and saved steps.

    Args:
        counted: vLLM's counters of drafts, drafted tokens and accepted tokens.
        steps: in how many steps each request took part, summed.
        tokens: tokens of all answers.

    Raises:
        GateFailed: nothing was drafted or accepted, more was accepted than drafted, or as many
            steps ran as without speculation.
    """
    drafts, drafted, accepted = counted
    require(drafts > 0 and drafted > 0, "vLLM's metrics count no draft: speculation was off")
    require(accepted > 0, f"none of {drafted:.0f} drafted tokens was accepted")
    require(accepted <= drafted, f"{accepted:.0f} of {drafted:.0f} drafted tokens were accepted")
    require(steps < tokens, f"{tokens} tokens took {steps} steps of requests: none was saved")
    return {
        "drafts": drafts,
        "drafted_tokens": drafted,
        "accepted_tokens": accepted,
        "steps_saved": tokens - steps,
    }


def _speculate(
    ctx: CellContext,
    reference: Reference,
    asked: Sequence[Scored],
    settings: dict[str, Any],
    length: int,
    *,
    learns: bool = False,
) -> Outcome:
    """Run, and compare.

    Args:
        ctx: the cell.
        reference: of the target.
        asked: prompts with the reference's answers.
        settings: vLLM's speculative configuration.
        length: tokens to generate.
        learns: whether drafts change as answers are given. Which numbers of a request's own
            generator decide on a token depends on what was drafted, so samples may differ then.
    """
    with start(ctx, speculative_config=settings) as engine:
        before = _counters(engine)
        run = engine.generate([e.prompt for e in asked], greedy(length))
        counted = [a - b for a, b in zip(_counters(engine), before, strict=True)]
        proof = dict(engine.platform)
        proof |= {"method": engine.config.speculative_config.method, "steps": len(run.steps)}
        proof["async_scheduling"] = engine.config.scheduler_config.async_scheduling
        proof |= proof_of_drafts(
            counted,
            sum(len(parts) for parts in run.per_request().values()),
            sum(len(tokens) for tokens in run.tokens),
        )
        if run.work is not None:
            least = engine.layers * len(run.steps)
            proof["attention_launches"] = run.work.attention + run.work.separate_attention
            proof["operator_launches"] = run.work.total
            require(
                int(str(proof["attention_launches"])) >= least,
                f"{proof['attention_launches']} launches of attention in {len(run.steps)} steps",
            )
        outcome = compared(ctx, engine, reference, run, asked, proof)
        # Requests that sample take another way through the rejection of drafts.
        inputs = [e.prompt for e in asked[:2]]
        drawn = engine.generate(inputs, sampled(length, temperature=0.8, seed=11))
        again = engine.generate(inputs, sampled(length, temperature=0.8, seed=11))
        drafted = _counters(engine)[1] - before[1] - counted[1]
    require(drafted > 0, "nothing was drafted for requests that sample")
    if not learns:
        compare.equal_tokens(again.tokens, drawn.tokens, "samples of the same seed")
    ours, theirs = sampled_logprobs(reference, inputs, drawn)
    outcome.metrics["sampled_logprob_difference_max"] = (
        compare.close_logprobs(ours, theirs, ctx.dtype, "logprobs of samples").largest,
        "nats",
    )
    outcome.metrics["acceptance_rate"] = (counted[2] / counted[1], "accepted/drafted")
    return outcome


def _counters(engine: Engine) -> list[float]:
    return [engine.metric(f"vllm:spec_decode_{name}") for name in COUNTERS]
