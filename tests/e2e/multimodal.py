"""The bodies of images and sounds: questions about one and about several, next to transformers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e import compare
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import Engine, Run, start
from tests.e2e.generation import greedy
from tests.e2e.media import make
from tests.e2e.reference import Reference, Scored

QUESTIONS = ("What is there?", "Describe it in a word:")

DIFFERENT = 0.01
"""A difference of one logprob (nats) by which answers are told apart: rounding is far below it."""


@dataclass(frozen=True)
class Asked:
    """One prompt.

    Attributes:
        text: with a placeholder for each item.
        items: kind and number of each image or sound, in the order of the placeholders.
    """

    text: str
    items: tuple[tuple[str, int], ...]

    @property
    def inputs(self) -> dict[str, Any]:
        """The prompt as vLLM takes it."""
        given: dict[str, list[Any]] = {}
        for kind, number in self.items:
            given.setdefault(kind, []).append(make(kind, number))
        return {"prompt": self.text, "multi_modal_data": given}


def base(ctx: CellContext) -> Outcome:
    """Greedy answers about images or sounds, each encoded once however often it is asked about."""
    length, count = int(ctx.parameter("max_tokens", 8)), int(ctx.parameter("prompts", 4))
    reference = Reference(ctx.checkpoint)
    asked = questions(ctx.model["media"], count)
    expected = [reference.seen(one.text, one.items, length) for one in asked]
    require_different(asked, expected)
    with start(ctx, **_limits(ctx, asked)) as engine:
        calls = watch_encoders(engine)
        run = engine.measure(
            lambda: engine.llm.generate([a.inputs for a in asked], greedy(length), use_tqdm=False)
        )
        proof = engine.proof_of_attention(run, encoders=calls)
    # vLLM keeps nothing of an encoder that stands beside its decoder from one request to another.
    kept = not engine.config.model_config.is_encoder_decoder
    proof |= proof_of_encoding(run, asked, calls, kept=kept)
    return _outcome(ctx, run, expected, proof, {**engine.timings, "reference": reference.seconds})


def prefix_caching(ctx: CellContext) -> Outcome:
    """A prompt that begins with the same image reuses its blocks; with another image, none."""
    length = int(ctx.parameter("max_tokens", 8))
    media = ctx.model["media"]
    kind = next(iter(media["placeholders"]))
    text = " ".join(f"{QUESTIONS[0]} {number}" for number in range(24))
    asked = [_asked(media, text, [(kind, number)]) for number in (0, 1)]
    reference = Reference(ctx.checkpoint)
    expected = [reference.seen(one.text, one.items, length) for one in asked]
    require_different(asked, expected)
    hits = []
    with start(ctx, **_limits(ctx, asked)) as engine:
        runs = []
        for one in (asked[0], asked[1], asked[0]):
            before = engine.metric("vllm:prefix_cache_hits")
            call = _generate(engine, one, length)
            runs.append(call)
            hits.append(int(engine.metric("vllm:prefix_cache_hits") - before))
        block = int(engine.config.cache_config.block_size)
    tokens = len(expected[0].prompt)
    whole = (tokens - 1) // block * block
    require(whole > 0, f"a prompt of {tokens} tokens has no whole block of {block}")
    require(
        hits == [0, 0, whole],
        f"prefix-cache hits {hits} for an image, another and the first again; [0, 0, {whole}] are "
        "what the same text behind other images must give",
    )
    require(runs[2].encoded == 0, f"the image in the cached blocks was encoded {runs[2].encoded}x")
    joined = Run(
        [output for run in runs for output in run.outputs], sum(r.seconds for r in runs), [], None
    )
    proof = {"prefix_cache_hits": hits, "encoded": [run.encoded for run in runs], "block": block}
    answers = [expected[0], expected[1], expected[0]]
    return _outcome(ctx, joined, answers, proof, {**engine.timings, "reference": reference.seconds})


def questions(media: dict[str, Any], count: int) -> list[Asked]:
    """Two questions about each item of each kind, and one about several items together."""
    kinds = list(media["placeholders"])
    asked = [
        _asked(media, QUESTIONS[i % 2], [(kind, i // 2)]) for kind in kinds for i in range(count)
    ]
    if media["per_prompt"] > 1:
        several = [(kind, number) for kind in kinds for number in (2, 0)]
        asked.append(_asked(media, QUESTIONS[0], several))
    return asked


def _asked(media: dict[str, Any], text: str, items: Sequence[tuple[str, int]]) -> Asked:
    placed = "".join(media["placeholders"][kind] for kind, _ in items)
    return Asked(media["prompt"].replace("{media}", placed).replace("{text}", text), tuple(items))


def require_different(asked: Sequence[Asked], expected: Sequence[Scored]) -> None:
    """Require that the reference answers otherwise about another image or sound.

    Raises:
        GateFailed: it does not look at them, so that agreeing with it would show nothing.
    """
    pairs = 0
    for (one, first), (other, second) in itertools.combinations(
        zip(asked, expected, strict=True), 2
    ):
        if one.text != other.text:
            continue
        pairs += 1
        scores = zip(first.continuation_logprobs, second.continuation_logprobs, strict=True)
        require(
            max(abs(a - b) for a, b in scores) > DIFFERENT,
            f"the reference answers the same about {one.items} and {other.items}",
        )
    require(pairs > 0, "no question was asked about two different inputs")


def watch_encoders(engine: Engine) -> list[int]:
    """Return a list that gets the number of sequences at each call of an encoder's attention.

    Encoders that are transformers' own, and Whisper's, attend otherwise and are not in it.
    """
    calls: list[int] = []

    def called(layer: Any, arguments: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
        borders = named.get("cu_seqlens")
        given = named.get("query", arguments[0] if arguments else None)
        if borders is None and len(arguments) > 3:
            borders = arguments[3]
        calls.append(len(borders) - 1 if borders is not None else given.shape[0])

    def hook(model: Any) -> None:
        from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention

        for module in model.modules():
            # Whisper's has a forward() of its own, which goes another way.
            own = isinstance(module, MMEncoderAttention)
            if own and type(module).forward is MMEncoderAttention.forward:
                module.register_forward_hook(called, with_kwargs=True)

    engine.llm.apply_model(hook)
    return calls


def proof_of_encoding(
    run: Run, asked: Sequence[Asked], calls: list[int], *, kept: bool = True
) -> dict[str, object]:
    """Require that each image and sound was encoded once, though several prompts hold it.

    Where encodings are not `kept` it is once for each prompt.

    Raises:
        GateFailed: one was encoded never, or again while it was in the cache.
    """
    held = Counter(item for one in asked for item in one.items)
    require(
        run.encoded == (len(held) if kept else held.total()),
        f"{run.encoded} encodings of {len(held)} different images and sounds "
        f"({held.total()} in the prompts); the encoder's cache holds each",
    )
    return {
        "media": dict(Counter(kind for kind, _ in held)),
        "in_prompts": held.total(),
        "encoded": run.encoded,
        "encoder_cache_hits": held.total() - run.encoded,
        "encoder_attention_calls": len(calls),
    }


def _limits(ctx: CellContext, asked: Sequence[Asked]) -> dict[str, Any]:
    most: Counter[str] = Counter()
    for one in asked:
        most |= Counter(kind for kind, _ in one.items)
    return {"limit_mm_per_prompt": dict(most), "skip_mm_profiling": True}


def _generate(engine: Engine, asked: Asked, length: int) -> Run:
    return engine.measure(
        lambda: engine.llm.generate([asked.inputs], greedy(length), use_tqdm=False)
    )


def _outcome(
    ctx: CellContext,
    run: Run,
    expected: Sequence[Scored],
    proof: dict[str, object],
    timings: dict[str, float],
) -> Outcome:
    """Compare the prompts as they were read and the answers; raises GateFailed where they part."""
    read = [list(output.prompt_token_ids) for output in run.outputs]
    compare.equal_tokens(read, [e.prompt for e in expected], "tokens of the prompts")
    equal = compare.equal_tokens(run.tokens, [e.continuation for e in expected])
    agreement = compare.close_logprobs(
        [value for row in run.logprobs for value in row],
        [value for e in expected for value in e.continuation_logprobs],
        ctx.dtype,
    )
    proof["prompt_tokens"] = [len(tokens) for tokens in read]
    return Outcome(
        metrics={
            "prompts": (len(expected), "prompts"),
            "tokens_equal": (equal, "tokens"),
            "logprob_difference_max": (agreement.largest, "nats"),
            "logprob_difference_mean": (agreement.mean, "nats"),
        },
        proof=proof,
        samples=[
            {"prompt": compare.digest(e.prompt), "tokens": compare.digest(tokens), "equal": True}
            for e, tokens in zip(expected, run.tokens, strict=True)
        ],
        timings=timings,
    )
