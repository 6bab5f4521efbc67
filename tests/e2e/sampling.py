"""Bodies of what changes the choice of a token: min-p, bad words, biases, one's own processors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import start
from tests.e2e.generation import greedy, sampled
from tests.e2e.reference import TOP, Reference

DRAWS = 32
"""Samples of one prompt: enough that an unrestricted model says different things."""

DIVISOR = 3
"""The processor of the cell allows tokens whose number is divisible by this."""


def controls(ctx: CellContext) -> Outcome:
    """Each control leaves exactly the tokens that it should, by the reference's probabilities."""
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 4)), 1)
    asked = [e.prompt for e in expected]
    best = [e.continuation_top[0] for e in expected]
    least, words = float(ctx.parameter("min_p", 0.5)), []
    processor = f"{__name__}:only_some"
    with start(ctx, logits_processors=[processor]) as engine:
        tokenizer = engine.llm.get_tokenizer()
        words = [tokenizer.decode([row[0][0]]) for row in best]
        usable = [i for i, word in enumerate(words) if _is_one_token(tokenizer, word, best[i])]
        require(bool(usable), f"none of {words} is one token again: no bad word can be tried")
        barred = engine.generate(
            [asked[i] for i in usable],
            [greedy(1, bad_words=[words[i]]) for i in usable],
        )
        free, narrow = (
            engine.generate(asked[:1], sampled(1, n=DRAWS, temperature=1.5, seed=3, min_p=value))
            for value in (0.0, least)
        )
        pushed = engine.generate(asked, [greedy(1, logit_bias={row[1][0]: 100.0}) for row in best])
        own = engine.generate(asked, greedy(1, extra_args={"divisor": DIVISOR}))
        plain = engine.generate(asked, greedy(1))
        proof = engine.proof_of_attention(plain)
    proof |= proof_of_bad_words([best[i] for i in usable], [t[0] for t in barred.tokens])
    proof |= proof_of_min_p(best[0], _firsts(free), _firsts(narrow), least, 1.5)
    proof |= proof_of_choice(
        "a bias of 100", [r[1][0] for r in best], [t[0] for t in pushed.tokens]
    )
    allowed = [next(t for t, _ in row if t % DIVISOR == 0) for row in best]
    proof |= proof_of_choice("the processor", allowed, [t[0] for t in own.tokens])
    proof |= proof_of_choice("no control", [r[0][0] for r in best], [t[0] for t in plain.tokens])
    return Outcome(
        metrics={"prompts": (len(asked), "prompts"), "draws": (DRAWS, "draws")},
        proof=proof,
        samples=[{"token": t[0]} for run in (plain, pushed, own) for t in run.tokens],
        timings={**engine.timings, "reference": reference.seconds},
    )


def proof_of_bad_words(
    best: Sequence[Sequence[tuple[int, float]]], found: Sequence[int]
) -> dict[str, object]:
    """Require the reference's second choice wherever the first was barred.

    Raises:
        GateFailed: another token came, or the barred one.
    """
    for row, token in zip(best, found, strict=True):
        require(token != row[0][0], f"the barred token {token} came")
        require(token == row[1][0], f"token {token} came; the next best is {row[1][0]}")
    return {"bad_words": len(found)}


def proof_of_min_p(
    best: Sequence[tuple[int, float]],
    free: Sequence[int],
    narrow: Sequence[int],
    least: float,
    temperature: float,
) -> dict[str, object]:
    """Require that no draw was less likely than `least` times the likeliest, and that some were
    without the control.

    Args:
        best: the reference's most likely tokens with their logprobs.
        free: draws without the control.
        narrow: draws with it.
        least: the smallest share of the largest probability.
        temperature: of the draws.

    Raises:
        GateFailed: a draw is too unlikely, or the control changed nothing.
    """
    floor = best[0][1] + temperature * math.log(least)
    allowed = {token for token, logprob in best if logprob >= floor}
    require(len(allowed) < TOP, "more tokens are allowed than the reference names")
    require(not set(free) <= allowed, "unrestricted draws obey min-p anyway")
    outside = sorted(set(narrow) - allowed)
    require(not outside, f"tokens {outside} were drawn; min-p {least} leaves {sorted(allowed)}")
    return {"min_p_leaves": len(allowed), "draws_without_min_p": len(set(free))}


def proof_of_choice(what: str, wanted: Sequence[int], found: Sequence[int]) -> dict[str, object]:
    """Require exactly these tokens.

    Raises:
        GateFailed: others came.
    """
    require(list(wanted) == list(found), f"with {what} came {list(found)}, not {list(wanted)}")
    return {f"right_with_{what.replace(' ', '_')}": len(found)}


def _is_one_token(tokenizer: Any, word: str, row: Sequence[tuple[int, float]]) -> bool:
    # vLLM takes words without the space before them, too, of which a space alone leaves nothing.
    return bool(word.strip()) and tokenizer.encode(word, add_special_tokens=False) == [row[0][0]]


def _firsts(run: Any) -> list[int]:
    return [completion.token_ids[0] for completion in run.outputs[0].outputs]


def __getattr__(name: str) -> Any:
    """Makes the processor's class when vLLM asks for it: only then vLLM has to be importable."""
    if name != "only_some":
        raise AttributeError(name)
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

    class OnlySome(AdapterLogitsProcessor):  # type: ignore[misc]
        """Allows tokens divisible by a request's own number, where it has one."""

        def is_argmax_invariant(self) -> bool:
            return False

        def new_req_logits_processor(self, params: Any) -> Any:
            extra: Mapping[str, Any] = params.extra_args or {}
            divisor = extra.get("divisor")
            return None if divisor is None else lambda _, logits: only_divisible(divisor, logits)

    return OnlySome


def only_divisible(divisor: int, logits: Any) -> Any:
    """Return the logits with those of tokens that are not divisible ruled out."""
    import torch

    numbers = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill(numbers % divisor != 0, -math.inf)
