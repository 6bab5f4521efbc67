"""Bodies of the features of generation: each compares with a reference, and proves its feature."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.e2e import compare, device, prompts
from tests.e2e.context import CellContext, GateFailed, Outcome, require
from tests.e2e.engine import Engine, Run, chosen_logprobs, proof_of_work_elsewhere, start
from tests.e2e.reference import Reference, Scored


def base(ctx: CellContext) -> Outcome:
    """Greedy generation for a batch of prompts of different lengths."""
    length = int(ctx.parameter("max_tokens", 16))
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 8)), length)
    with start(ctx) as engine:
        _require_same_tokenizer(engine, reference)
        run = engine.generate([e.prompt for e in expected], greedy(length))
        proof = engine.proof_of_attention(run)
        return compared(ctx, engine, reference, run, expected, proof)


def chunked_prefill(ctx: CellContext) -> Outcome:
    """Prompts that are longer than a step may take are read in several steps."""
    length, size = int(ctx.parameter("max_tokens", 12)), int(ctx.parameter("prompt_tokens", 150))
    reference = Reference(ctx.checkpoint)
    asked = prompts.long_prompts(reference.tokenizer, int(ctx.parameter("prompts", 4)), size)
    expected = reference.greedy(asked, length)
    with start(ctx) as engine:
        run = engine.generate(asked, greedy(length))
        budget = engine.config.scheduler_config.max_num_batched_tokens
        proof = engine.proof_of_attention(run)
        proof |= proof_of_chunks(run.per_request(), size, budget)
        return compared(ctx, engine, reference, run, expected, proof)


def prefix_caching(ctx: CellContext) -> Outcome:
    """Prompts that begin as earlier ones did reuse the earlier KV cache blocks."""
    length, size = int(ctx.parameter("max_tokens", 12)), int(ctx.parameter("prompt_tokens", 150))
    reference = Reference(ctx.checkpoint)
    prefix, asked = prompts.shared_prefix(
        reference.tokenizer, int(ctx.parameter("prompts", 4)), size
    )
    expected = reference.greedy(asked, length)
    with start(ctx) as engine:
        hits = [engine.metric("vllm:prefix_cache_hits")]
        first = engine.generate([prefix], greedy(1))
        hits.append(engine.metric("vllm:prefix_cache_hits"))
        warm = engine.generate(asked, greedy(length))
        hits.append(engine.metric("vllm:prefix_cache_hits"))
        require(engine.llm.reset_prefix_cache(), "the prefix cache could not be emptied")
        # One at a time with the cache emptied in between: prompts of one batch share blocks too.
        cold = []
        for prompt in asked:
            cold.append(engine.generate([prompt], greedy(length)))
            engine.llm.reset_prefix_cache()
        hits.append(engine.metric("vllm:prefix_cache_hits"))
        proof = engine.proof_of_attention(warm)
        cold_tokens = sum(run.scheduled for run in cold)
        proof |= proof_of_prefix_hits(hits, warm.scheduled, cold_tokens)
        proof["prefix_tokens_of_first_request"] = first.scheduled
        compare.equal_tokens([t for run in cold for t in run.tokens], warm.tokens, "cold and warm")
        return compared(ctx, engine, reference, warm, expected, proof)


def async_scheduling(ctx: CellContext) -> Outcome:
    """The next step is scheduled while the device still works on this one."""
    length = int(ctx.parameter("max_tokens", 24))
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 8)), length)
    with start(ctx) as engine:
        run = engine.generate([e.prompt for e in expected], greedy(length))
        proof = engine.proof_of_attention(run)
        proof |= {
            "configured": engine.config.scheduler_config.async_scheduling,
            "scheduler": type(engine.core.scheduler).__name__,
            "batch_queue": engine.core.batch_queue_size,
            "overlapping_steps": run.overlapping,
        }
        require(
            proof["configured"] is True and engine.core.batch_queue_size > 1,
            f"asynchronous scheduling is off in the resolved configuration: {proof}",
        )
        # The first step has no predecessor, and the last may find an empty queue.
        require(
            run.overlapping >= length - 2,
            f"only {run.overlapping} of {len(run.steps)} steps were scheduled before the output "
            "of the step before had been read",
        )
        return compared(ctx, engine, reference, run, expected, proof)


def sliding_window(ctx: CellContext) -> Outcome:
    """Layers that see a window of the last tokens only, with prompts that are longer."""
    length, size = int(ctx.parameter("max_tokens", 12)), int(ctx.parameter("prompt_tokens", 150))
    reference = Reference(ctx.checkpoint)
    asked = prompts.long_prompts(reference.tokenizer, int(ctx.parameter("prompts", 4)), size)
    expected = reference.greedy(asked, length)
    wide = Reference(without_window(ctx.checkpoint, ctx.workdir / "wide", 4 * size))
    others = [scored.continuation for scored in wide.greedy(asked, length)]
    with start(ctx) as engine:
        run = engine.generate(asked, greedy(length))
        proof = engine.proof_of_attention(run)
        window = int(engine.config.model_config.hf_text_config.sliding_window)
        groups = engine.core.scheduler.kv_cache_config.kv_cache_groups
        proof["cache_groups"] = sorted(type(group.kv_cache_spec).__name__ for group in groups)
        proof |= proof_of_window(run.tokens, others, window, size)
        return compared(ctx, engine, reference, run, expected, proof)


def sinks(ctx: CellContext) -> Outcome:
    """A logit of each head takes its share of attention, and no value comes of it."""
    length = int(ctx.parameter("max_tokens", 12))
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 4)), length)
    asked = [e.prompt for e in expected]
    without = Reference(without_sinks(ctx.checkpoint, ctx.workdir / "without"))
    others = [scored.continuation for scored in without.greedy(asked, length)]
    with start(ctx) as engine:
        run = engine.generate(asked, greedy(length))
        proof = engine.proof_of_attention(run)
        proof |= proof_of_sinks(run, engine.layers, others)
        return compared(ctx, engine, reference, run, expected, proof)


def logprobs(ctx: CellContext) -> Outcome:
    """The logprobs of the chosen and of the most likely tokens at every position."""
    length, count = int(ctx.parameter("max_tokens", 12)), int(ctx.parameter("logprobs", 5))
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 4)), length)
    with start(ctx) as engine:
        run = engine.generate([e.prompt for e in expected], greedy(length, logprobs=count))
        found = [_table(row) for o in run.outputs for row in o.outputs[0].logprobs]
        theirs = [row for e in _scores(ctx, reference, run, expected) for row in e.continuation_top]
        top = compare.close_top(found, theirs, count, ctx.dtype)
        proof = engine.proof_of_attention(run)
        proof["values_per_position"] = min(len(row) for row in found)
        outcome = compared(ctx, engine, reference, run, expected, proof)
        outcome.metrics |= _agreement("top_logprob", top)
        return outcome


def prompt_logprobs(ctx: CellContext) -> Outcome:
    """The logprobs of the tokens of the prompt itself."""
    length, count = int(ctx.parameter("max_tokens", 1)), int(ctx.parameter("prompt_logprobs", 5))
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 4)), length)
    with start(ctx) as engine:
        params = greedy(length, prompt_logprobs=count)
        run = engine.generate([e.prompt for e in expected], params)
        found: list[dict[int, float]] = []
        chosen: list[float] = []
        for output, scored in zip(run.outputs, expected, strict=True):
            rows = output.prompt_logprobs
            require(
                len(rows) == scored.prompt_length and rows[0] is None,
                f"{len(rows)} prompt positions for a prompt of {scored.prompt_length} tokens",
            )
            found += [_table(row) for row in rows[1:]]
            pairs = zip(rows[1:], scored.prompt[1:], strict=True)
            chosen += [row[token].logprob for row, token in pairs]
        end = [scored.prompt_length - 1 for scored in expected]
        top = compare.close_top(
            found,
            [row for e, n in zip(expected, end, strict=True) for row in e.top[:n]],
            count,
            ctx.dtype,
            "top prompt logprobs",
        )
        theirs = [value for e, n in zip(expected, end, strict=True) for value in e.logprobs[:n]]
        own = compare.close_logprobs(chosen, theirs, ctx.dtype, "prompt logprobs")
        proof = engine.proof_of_attention(run)
        proof["prompt_positions"] = len(found)
        outcome = compared(ctx, engine, reference, run, expected, proof)
        outcome.metrics |= _agreement("prompt_logprob", own)
        outcome.metrics |= _agreement("top_prompt_logprob", top)
        return outcome


def best_of_n(ctx: CellContext) -> Outcome:
    """Several seeded samples of one prompt, of which the most likely is the best."""
    length, n = int(ctx.parameter("max_tokens", 12)), int(ctx.parameter("n", 4))
    temperature, seed = float(ctx.parameter("temperature", 0.8)), int(ctx.parameter("seed", 11))
    reference = Reference(ctx.checkpoint)
    texts = prompts.SHORT[: int(ctx.parameter("prompts", 2))]
    asked = prompts.encode(reference.tokenizer, texts)
    with start(ctx) as engine:
        params = sampled(length, n=n, temperature=temperature, seed=seed)
        run, again = engine.generate(asked, params), engine.generate(asked, params)
        other = engine.generate(asked, sampled(length, n=n, temperature=temperature, seed=seed + 1))
        proof = engine.proof_of_attention(run)
        proof |= proof_of_samples(_samples(run), _samples(again), _samples(other), n)
        ours, theirs = sampled_logprobs(reference, asked, run)
        agreement = compare.close_logprobs(ours, theirs, ctx.dtype, "logprobs of samples")
        many = engine.generate(asked[:1], sampled(1, n=64, temperature=temperature, seed=seed))
        drawn = [chosen_logprobs(c)[0] for c in many.outputs[0].outputs]
        moments = reference.sampling_moments(asked[0], temperature)
        deviation = require_plausible_draws(drawn, *moments)
    best = [max(o.outputs, key=lambda c: c.cumulative_logprob) for o in run.outputs]
    return Outcome(
        metrics={
            **_agreement("logprob", agreement),
            "mean_of_draws_deviation": (deviation, "standard errors"),
            "best_cumulative_logprob": (max(c.cumulative_logprob for c in best), "nats"),
        },
        proof=proof,
        samples=[{"tokens": compare.digest(c.token_ids)} for c in best],
        timings={**engine.timings, "reference": reference.seconds},
    )


def beam_search(ctx: CellContext) -> Outcome:
    """The most likely sequences that a beam of given width finds; ends are tokens like others."""
    from vllm.sampling_params import BeamSearchParams

    length, width = int(ctx.parameter("max_tokens", 8)), int(ctx.parameter("beam_width", 3))
    reference = Reference(ctx.checkpoint)
    texts = prompts.SHORT[: int(ctx.parameter("prompts", 2))]
    asked = prompts.encode(reference.tokenizer, texts)
    expected = [reference.beams(prompt, width, length) for prompt in asked]
    params = BeamSearchParams(beam_width=width, max_tokens=length, ignore_eos=True)
    with start(ctx) as engine:
        inputs = [{"prompt_token_ids": prompt} for prompt in asked]
        run = engine.measure(lambda: engine.llm.beam_search(inputs, params))
        proof = engine.proof_of_attention(run)
    require(
        all(len(output.sequences) == width for output in run.outputs),
        f"{[len(o.sequences) for o in run.outputs]} beams came back; {width} were asked for",
    )
    found = [
        (list(beam.tokens[len(prompt) :]), beam.cum_logprob)
        for prompt, output in zip(asked, run.outputs, strict=True)
        for beam in output.sequences
    ]
    wanted = [beam for beams in expected for beam in beams]
    tokens = compare.equal_tokens([t for t, _ in found], [b.tokens for b in wanted], "beams")
    per_token = compare.close_logprobs(
        [score / length for _, score in found],
        [beam.score / length for beam in wanted],
        ctx.dtype,
        "scores of beams per token",
    )
    greedy_tokens = [scored.continuation for scored in reference.greedy(asked, length)]
    proof |= {
        "beams": len(found),
        "beams_unlike_greedy": sum(t not in greedy_tokens for t, _ in found),
    }
    require(proof["beams_unlike_greedy"] != 0, "every beam is the greedy continuation")
    return Outcome(
        metrics={"tokens_compared": (tokens, "tokens"), **_agreement("beam_score", per_token)},
        proof=proof,
        samples=[{"tokens": compare.digest(t), "score": score} for t, score in found],
        timings={**engine.timings, "reference": reference.seconds},
    )


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "open": {"type": "boolean"},
        "pier": {"enum": ["first", "second", "third"]},
        "pupils": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["open", "pier", "pupils"],
    "additionalProperties": False,
}
"""A schema whose documents are short, whatever the model would like to say."""

ENUMERATED: dict[str, Any] = {
    **SCHEMA,
    "properties": {**SCHEMA["properties"], "pupils": {"enum": [7, 42, 90]}},
}
"""The same for outlines, which takes no bounds of numbers: fewer documents, all of the schema."""

CHOICES = ["a red boat", "a blue boat", "no boat"]
PATTERN = r"[a-f]{4}-[0-9]{3}"


def guided_decoding(ctx: CellContext) -> Outcome:
    """Output constrained to a choice, a regular expression or a JSON schema.

    The engine core is left in a process of its own, as is vLLM's default.
    """
    from vllm.sampling_params import StructuredOutputsParams

    length, backend = int(ctx.parameter("max_tokens", 48)), ctx.parameter("backend", "xgrammar")
    reference = Reference(ctx.checkpoint)
    texts = prompts.SHORT[: int(ctx.parameter("prompts", 2))]
    asked = prompts.encode(reference.tokenizer, texts)
    constraints = {
        "choice": StructuredOutputsParams(choice=CHOICES),
        "regex": StructuredOutputsParams(regex=PATTERN),
        "json": StructuredOutputsParams(json=ENUMERATED if backend == "outlines" else SCHEMA),
    }
    # A model of random weights would fill a document with white space where that is allowed.
    settings: dict[str, Any] = {"backend": backend}
    if backend != "outlines":
        settings["disable_any_whitespace"] = True
    with start(ctx, in_process=False, structured_outputs_config=settings) as engine:
        # The first words are enough to see that the model would not say this by itself.
        free = engine.generate(asked, greedy(min(length, 16), ignore_eos=False))
        guided = {
            kind: engine.generate(
                asked, greedy(length, ignore_eos=False, structured_outputs=constraint)
            )
            for kind, constraint in constraints.items()
        }
        proof = dict(engine.platform)
        proof["backend"] = engine.config.structured_outputs_config.backend
        require(
            proof["backend"] == backend,
            f"the backend is {proof['backend']}, and {backend} was asked for",
        )
    proof |= proof_of_work_elsewhere(engine.counters)
    free_texts = [o.outputs[0].text for o in free.outputs]
    guided_texts = {k: [o.outputs[0].text for o in run.outputs] for k, run in guided.items()}
    proof |= proof_of_grammar(free_texts, guided_texts)
    return Outcome(
        metrics={"constrained_outputs": (len(constraints) * len(asked), "outputs")},
        proof=proof,
        samples=[{"constraint": k, "text": t} for k, texts in guided_texts.items() for t in texts],
        timings={**engine.timings, "reference": reference.seconds},
    )


# -------------------------------------------------------------------------------------- parameters


def greedy(length: int, **more: Any) -> Any:
    """Return sampling parameters for exactly `length` most likely tokens, with their logprobs."""
    from vllm import SamplingParams

    return SamplingParams(
        **{"temperature": 0.0, "max_tokens": length, "ignore_eos": True, "logprobs": 0, **more}
    )


def sampled(length: int, **more: Any) -> Any:
    """Return sampling parameters for exactly `length` random tokens, with their logprobs."""
    from vllm import SamplingParams

    return SamplingParams(**{"max_tokens": length, "ignore_eos": True, "logprobs": 0, **more})


# ------------------------------------------------------------------------------------------ proofs


def proof_of_chunks(
    per_request: Mapping[str, Sequence[int]], size: int, budget: int
) -> dict[str, object]:
    """Require that every prompt was read in several steps within the budget.

    Args:
        per_request: request to the number of its tokens in each of its steps.
        size: tokens of each prompt.
        budget: tokens that one step may take.

    Raises:
        GateFailed: a prompt was read in one step, not completely, or the budget was exceeded.
    """
    require(bool(per_request), "no request was scheduled")
    require(size > budget, f"prompts of {size} tokens fit into one step of {budget}")
    chunks = []
    for request, parts in per_request.items():
        sums = list(itertools.accumulate(parts))
        require(
            size in sums and sums.index(size) > 0,
            f"request {request} was not read in several steps: {list(parts)} for {size} tokens",
        )
        chunks.append(sums.index(size) + 1)
        require(max(parts) <= budget, f"a step took {max(parts)} tokens; the budget is {budget}")
    return {
        "prompt_tokens": size,
        "tokens_per_step": budget,
        "prefill_parts": sum(chunks),
        "prompts": len(chunks),
    }


def proof_of_window(
    found: Sequence[Sequence[int]], others: Sequence[Sequence[int]], window: int, size: int
) -> dict[str, object]:
    """Require prompts longer than the window, and answers that a wide window does not give.

    Raises:
        GateFailed: the window holds a whole prompt, or makes no difference.
    """
    require(window < size, f"the window of {window} tokens holds prompts of {size}")
    changed = sum(list(a) != list(b) for a, b in zip(found, others, strict=True))
    require(changed > 0, "the same answers come without the window, so nothing shows that it is on")
    return {"window": window, "prompt_tokens": size, "answers_changed_by_the_window": changed}


def proof_of_sinks(run: Run, layers: int, others: Sequence[Sequence[int]]) -> dict[str, object]:
    """Require the versions of attention that take sinks, and answers that come of no others.

    Raises:
        GateFailed: another version was launched, or sinks make no difference.
    """
    changed = sum(list(a) != list(b) for a, b in zip(run.tokens, others, strict=True))
    require(changed > 0, "the same answers come without sinks, so nothing shows that they are on")
    proof: dict[str, object] = {"answers_changed_by_sinks": changed}
    if run.work is not None:
        count = sum(run.work.launches.get(f"{device.ATTENTION}{v}", 0) for v in ("V4", "V5"))
        require(
            count == layers * len(run.steps),
            f"{count} launches of attention with sinks in {len(run.steps)} steps of {layers} "
            f"layers: {dict(sorted(run.work.launches.items()))}",
        )
        proof["launches_with_sinks"] = count
    return proof


def proof_of_prefix_hits(hits: Sequence[float], warm: int, cold: int) -> dict[str, object]:
    """Require hits for the prompts with a known prefix, and none where the cache was empty.

    Args:
        hits: vLLM's counter of tokens found in the cache: at the start, after the prefix, after
            the prompts that share it, after the same prompts with the cache emptied before each.
        warm: tokens computed for the prompts with the cache.
        cold: tokens computed for them without.

    Raises:
        GateFailed: no hits, hits in an empty cache, or no work was saved.
    """
    counts = [after - before for before, after in itertools.pairwise(hits)]
    require(counts[0] == 0, f"{counts[0]:.0f} tokens were found in a cache that was empty")
    require(counts[1] > 0, "no token of the shared prefix was found in the cache")
    require(counts[2] == 0, f"{counts[2]:.0f} tokens were found after the cache was emptied")
    require(
        cold - warm == counts[1],
        f"{counts[1]:.0f} tokens were found in the cache, and {cold - warm} fewer were computed",
    )
    return {"cached_tokens": counts[1], "tokens_computed": warm, "tokens_without_cache": cold}


def proof_of_samples(
    first: Sequence[Sequence[Sequence[int]]],
    again: Sequence[Sequence[Sequence[int]]],
    other: Sequence[Sequence[Sequence[int]]],
    n: int,
) -> dict[str, object]:
    """Require n different samples, the same ones for the same seed, and others for another.

    Raises:
        GateFailed: one of these does not hold.
    """
    for index, samples in enumerate(first):
        require(len(samples) == n, f"prompt {index} has {len(samples)} samples, not {n}")
        different = len({tuple(sample) for sample in samples})
        require(different == n, f"only {different} of {n} samples of prompt {index} differ")
    require(list(first) == list(again), "the same seed gave other samples the second time")
    require(list(first) != list(other), "another seed gave the same samples")
    return {"samples": n * len(first), "different": n * len(first), "same_seed_same_samples": True}


def require_plausible_draws(drawn: Sequence[float], mean: float, variance: float) -> float:
    """Require that logprobs of sampled tokens have the mean that the distribution gives them.

    Returns:
        How many standard errors the mean is off.

    Raises:
        GateFailed: more than 4 (which chance does to one run in 16,000).
    """
    error = math.sqrt(variance / len(drawn))
    deviation = (math.fsum(drawn) / len(drawn) - mean) / max(error, 1e-9)
    require(
        abs(deviation) <= 4,
        f"the logprobs of {len(drawn)} draws have a mean {deviation:.1f} standard errors from "
        f"{mean:.3f}: tokens are not drawn from the model's distribution",
    )
    return deviation


def proof_of_grammar(free: Sequence[str], guided: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """Require that constrained texts obey their constraint, and unconstrained ones do not.

    Args:
        free: unconstrained texts of the prompts.
        guided: `choice`, `regex` and `json` to the texts of the same prompts.

    Raises:
        GateFailed: a text breaks its constraint, or the constraint changed nothing.
    """
    for kind, texts in guided.items():
        require(len(texts) == len(free), f"{kind}: {len(texts)} texts for {len(free)} prompts")
        for text in texts:
            require(obeys(kind, text), f"the output {text!r} breaks its {kind} constraint")
        for text in free:
            require(not obeys(kind, text), f"unconstrained output obeys {kind} anyway: {text!r}")
    return {"constraints": sorted(guided), "unconstrained_outputs_that_obey": 0}


def obeys(kind: str, text: str) -> bool:
    """Whether a text is one of the choices, matches the pattern, or is a document of the schema."""
    if kind == "choice":
        return text in CHOICES
    if kind == "regex":
        return re.fullmatch(PATTERN, text) is not None
    try:
        document = json.loads(text)
    except ValueError:
        return False
    fields: dict[str, Any] = SCHEMA["properties"]
    return (
        isinstance(document, dict)
        and set(document) == set(fields)
        and isinstance(document["open"], bool)
        and document["pier"] in fields["pier"]["enum"]
        and type(document["pupils"]) is int
        and 0 <= document["pupils"] <= fields["pupils"]["maximum"]
    )


# ----------------------------------------------------------------------------------------- outcomes


def compared(
    ctx: CellContext,
    engine: Engine,
    reference: Reference,
    run: Run,
    expected: Sequence[Scored],
    proof: dict[str, object],
) -> Outcome:
    """Compare tokens and logprobs of a greedy run with the reference's, as the dtype allows."""
    theirs = [scored.continuation for scored in expected]
    scores = _scores(ctx, reference, run, expected)
    if ctx.dtype == "float32":
        equal = compare.equal_tokens(run.tokens, theirs)
    else:
        gaps = [scored.continuation_gaps for scored in expected]
        equal = compare.equal_tokens_up_to_ties(run.tokens, theirs, gaps, ctx.dtype)
    agreement = compare.close_logprobs(
        [value for row in run.logprobs for value in row],
        [value for scored in scores for value in scored.continuation_logprobs],
        ctx.dtype,
    )
    total = sum(len(tokens) for tokens in run.tokens)
    return Outcome(
        metrics={
            "prompts": (len(expected), "prompts"),
            "tokens_equal": (equal, "tokens"),
            "tokens_compared": (total, "tokens"),
            **_agreement("logprob", agreement),
            "throughput": (total / run.seconds, "tokens/s"),
        },
        proof=proof,
        samples=[
            {"prompt": compare.digest(s.prompt), "tokens": compare.digest(t), "equal": t == e}
            for s, t, e in zip(expected, run.tokens, theirs, strict=True)
        ],
        timings={**engine.timings, "reference": reference.seconds},
    )


def without_window(checkpoint: Path, folder: Path, window: int) -> Path:
    """The same checkpoint with a window that holds everything."""
    shutil.copytree(checkpoint, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": window}))
    return folder


def _scores(
    ctx: CellContext, reference: Reference, run: Run, expected: Sequence[Scored]
) -> list[Scored]:
    """What the reference says about the engine's own tokens, wherever they differ from its own."""
    if ctx.dtype == "float32":
        compare.equal_tokens(run.tokens, [scored.continuation for scored in expected])
    return [
        scored if tokens == scored.continuation else reference.score(scored.prompt, tokens)
        for tokens, scored in zip(run.tokens, expected, strict=True)
    ]


def _agreement(name: str, agreement: compare.Agreement) -> dict[str, tuple[float, str]]:
    return {
        f"{name}_values": (agreement.values, "values"),
        f"{name}_difference_max": (agreement.largest, "nats"),
        f"{name}_difference_mean": (agreement.mean, "nats"),
    }


def _table(row: Mapping[int, Any]) -> dict[int, float]:
    return {token: float(entry.logprob) for token, entry in row.items()}


def _samples(run: Run) -> list[list[list[int]]]:
    return [[list(c.token_ids) for c in output.outputs] for output in run.outputs]


def sampled_logprobs(
    reference: Reference, asked: Sequence[Sequence[int]], run: Run
) -> tuple[list[float], list[float]]:
    """The logprobs of all samples' tokens, by the engine and by the reference."""
    ours: list[float] = []
    theirs: list[float] = []
    for prompt, output in zip(asked, run.outputs, strict=True):
        for completion in output.outputs:
            ours += chosen_logprobs(completion)
            theirs += reference.score(prompt, list(completion.token_ids)).continuation_logprobs
    return ours, theirs


def _require_same_tokenizer(engine: Engine, reference: Reference) -> None:
    ours = prompts.encode(engine.llm.get_tokenizer(), prompts.SHORT)
    if ours != prompts.encode(reference.tokenizer, prompts.SHORT):
        raise GateFailed("the engine's tokenizer gives other tokens than the reference's")


def without_sinks(checkpoint: Path, folder: Path) -> Path:
    """The same checkpoint with sinks that take nothing."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if name.endswith(".sinks"):
            weight.fill_(-1e4)
    save_file(weights, path, metadata={"format": "pt"})
    return folder
