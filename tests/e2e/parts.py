"""Features as parts of a common run: what each asks for, changes, and shows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tests.e2e import (
    adapters,
    compare,
    device,
    drafters,
    generation,
    prompts,
    quantised,
    sampling,
)
from tests.e2e.context import require
from tests.e2e.engine import Engine, Run
from tests.e2e.reference import Reference
from tests.e2e.sleeping import weight_bytes
from tests.e2e.together import Shared, answers

LONG = 150
"""Tokens of a prompt that no step of a chunked prefill can take, and of a shared prefix."""

TOP = 5
"""Logprobs asked for at each position."""


class Part:
    """One feature in a common run; the methods are called in the order in which they stand."""

    def __init__(self, shared: Shared, feature: Mapping[str, Any]) -> None:
        self.shared, self.name = shared, str(feature["name"])
        self.given: Mapping[str, Any] = feature.get("parameters", {})

    def prepare(self) -> None:
        """Shape the prompts, and make what has to lie on the disk."""

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for `vllm.LLM` beyond those of features.yaml."""
        return {}

    def parameters(self) -> dict[str, Any]:
        """Sampling parameters of every request."""
        return {}

    def before(self) -> None:
        """Do something with the engine before the common run."""

    def prove(self) -> dict[str, Any]:
        """Prove that the feature was on, while the engine is there; may run again."""
        return {}

    def adjust(self, row: Any, answer: Sequence[int]) -> Any:
        """Change the logprobs from which the token after `answer` is chosen."""
        return row

    def report(self, row: Any, answer: Sequence[int]) -> Any:
        """Change the logprobs that the engine reports; most features leave the model's own."""
        return row

    def judged(self) -> dict[str, Any]:
        """Prove what only the comparison with the reference shows."""
        return {}

    @property
    def engine(self) -> Engine:
        """The running engine."""
        return self.shared.engine

    def _changed(self) -> dict[str, Any]:
        """Require that without this feature another token would have been right somewhere."""
        changed = self.shared.changed.get(self.name, 0)
        require(changed > 0, f"{self.name} changed no token, so nothing shows that it was on")
        return {"tokens_that_it_changed": changed}


class Lora(Part):
    """Two adapters and the base model in one batch."""

    def prepare(self) -> None:
        from vllm.lora.request import LoRARequest

        shared, base = self.shared, self.shared.reference
        for number, rank in enumerate((8, 4)):
            folder = shared.ctx.workdir / f"adapter-{number}"
            adapter, merged = adapters.make(base, folder, rank, number + 1)
            shared.adapters[2 * number] = LoRARequest(folder.name, number + 1, str(adapter))
            shared.references[2 * number] = Reference(merged)

    def prove(self) -> dict[str, Any]:
        loaded = self.engine.llm.llm_engine.list_loras()
        require(loaded == {1, 2}, f"adapters {loaded} are loaded; 1 and 2 should be")
        requests = {name.split("_")[-1] for step in self.shared.run.steps for name in step.tokens}
        proof = {"adapters": len(loaded), "requests": len(requests)}
        return proof | {"requests_in_one_step": max(len(s.tokens) for s in self.shared.run.steps)}

    def judged(self) -> dict[str, Any]:
        differences = []
        for number, prompt in enumerate(self.shared.asked):
            if self.shared.adapters[number] is not None:
                rows = (r.rows(prompt)[-1] for r in (self.shared.references[number], self._base))
                ours, theirs = rows
                differences.append(float((ours - theirs).abs().mean()))
        least, allowed = min(differences), compare.LOGPROB_TOLERANCE[self.shared.ctx.dtype]
        require(least > allowed, f"an adapter moves logprobs by {least:.4f} nats only")
        return {"logprobs_moved_by_adapters": least}

    @property
    def _base(self) -> Reference:
        return self.shared.reference


class SamplingControls(Part):
    """A bias, and a logits processor of one's own."""

    BIAS = 4.0

    @cached_property
    def _favoured(self) -> int:
        if self.shared.has(*GUIDED):
            return int(self.shared.reference.tokenizer.convert_tokens_to_ids("f"))
        best = self.shared.reference.rows(self.shared.asked[1])[-1].argsort(descending=True)
        return int(next(token for token in best[1:] if int(token) % sampling.DIVISOR == 0))

    @property
    def _processor(self) -> bool:
        """A grammar may leave no token that the processor allows, so it is left out there."""
        return not self.shared.has(*GUIDED)

    def settings(self) -> dict[str, Any]:
        return {"logits_processors": [f"{sampling.__name__}:only_some"]}

    def parameters(self) -> dict[str, Any]:
        extra = {"extra_args": {"divisor": sampling.DIVISOR}} if self._processor else {}
        return {"logit_bias": {self._favoured: self.BIAS}, **extra}

    def adjust(self, row: Any, answer: Sequence[int]) -> Any:
        row = row.clone()
        row[self._favoured] += self.BIAS
        return sampling.only_divisible(sampling.DIVISOR, row) if self._processor else row

    def judged(self) -> dict[str, Any]:
        return self._changed() | {"processor": self._processor}


class GuidedDecoding(Part):
    """Answers that match a regular expression."""

    PATTERN = r"[a-f]{4}-[0-9]{3}"
    WIDE = r"[ -{}~]{1,200}"
    """Rules out half of what the model would say, and leaves the rest as it is. No bar is allowed:
    backends do not agree on whether `<|endoftext|>` may be said as text."""

    @property
    def _pattern(self) -> str:
        """The pattern of the pair.

        A model that drafts knows no grammar, and vLLM drops drafts that break it; and launches
        are counted step by step only where no answer ends before its length.
        """
        return self.WIDE if self.shared.has(*MODELS, "quantisation") else self.PATTERN

    @property
    def _backend(self) -> str:
        return str(self.given.get("backend", "xgrammar"))

    def settings(self) -> dict[str, Any]:
        return {"structured_outputs_config": {"backend": self._backend}}

    def parameters(self) -> dict[str, Any]:
        from vllm.sampling_params import StructuredOutputsParams

        asked = StructuredOutputsParams(regex=self._pattern)
        return {"structured_outputs": asked, "ignore_eos": False}

    def adjust(self, row: Any, answer: Sequence[int]) -> Any:
        import torch

        refused = torch.ones(row.shape[-1], dtype=torch.bool)
        refused[self._offered(self._said(answer))] = False
        return row.masked_fill(refused, -math.inf)

    def report(self, row: Any, answer: Sequence[int]) -> Any:
        # vLLM applies a grammar to the logits before it takes their logprobs.
        return self.adjust(row, answer).log_softmax(-1)

    def prove(self) -> dict[str, Any]:
        import regex

        used = self.engine.config.structured_outputs_config.backend
        require(used == self._backend, f"the backend is {used}; {self._backend} was asked for")
        texts = [completion.text for _, completion in self.shared.completions]
        for text in texts:
            require(bool(regex.fullmatch(self._pattern, text)), f"{text!r} breaks the constraint")
        return {"backend": used, "constrained_outputs": len(texts)}

    def judged(self) -> dict[str, Any]:
        return self._changed()

    @cached_property
    def _words(self) -> list[str]:
        tokenizer = self.shared.reference.tokenizer
        special = set(tokenizer.all_special_ids)
        size = self.shared.reference.model.get_output_embeddings().weight.shape[0]
        return ["" if i in special else tokenizer.decode([i]) for i in range(size)]

    @cached_property
    def _doubles(self) -> set[int]:
        """Tokens of one byte that another token spells, too."""
        tokenizer = self.shared.reference.tokenizer
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        bytes_ = {i for i, name in enumerate(names) if BYTE.fullmatch(name)}
        spelt = {word for i, word in enumerate(self._words) if i not in bytes_}
        return {i for i in bytes_ if self._words[i] in spelt}

    def _offered(self, text: str) -> list[int]:
        """The tokens that the backend lets through behind a text."""
        fitting = [token for token in range(len(self._words)) if self._fits(text, token)]
        forced = len({self._words[token][:1] for token in fitting}) == 1
        if self._backend != "guidance" or not forced:
            return fitting
        # What a grammar forces, guidance offers as the tokenizer would write it only.
        return [token for token in fitting if token not in self._doubles]

    def _said(self, answer: Sequence[int]) -> str:
        return "".join(self._words[token] for token in answer)

    def _fits(self, text: str, token: int) -> bool:
        import regex

        if token == self.shared.reference.tokenizer.eos_token_id:
            return regex.fullmatch(self._pattern, text) is not None
        more = self._words[token]
        return bool(more) and regex.fullmatch(self._pattern, text + more, partial=True) is not None


BYTE = re.compile("<0x[0-9A-F]{2}>")
"""Name of a token that stands for one byte, beside those that spell it."""

GUIDED = ("guided-decoding", "guided-decoding-guidance", "guided-decoding-outlines")
MODELS = ("draft-model", "medusa", "eagle", "eagle3")


class PrefixCaching(Part):
    """All prompts begin with a text that was read before."""

    def prepare(self) -> None:
        tokenizer, shared = self.shared.reference.tokenizer, self.shared
        size = 2 * LONG if self._dropped else LONG
        self.prefix, _ = prompts.shared_prefix(tokenizer, 1, size)
        shared.asked = [self.prefix + list(prompt) for prompt in shared.asked]

    @property
    def _dropped(self) -> int:
        """Blocks of a hit that are computed anew: heads need the hidden states of the last."""
        return int(self.shared.has("eagle", "eagle3"))

    def before(self) -> None:
        which = {getattr(a, "lora_int_id", 0): a for a in self.shared.adapters}
        more = {"max_tokens": 1, "n": 1}
        self.shared.generate([self.prefix] * len(which), list(which.values()), **more)

    def prove(self) -> dict[str, Any]:
        shared, found = self.shared, self.shared.added["cached"]
        block = self.engine.config.cache_config.block_size
        least = len(shared.asked) * (len(self.prefix) // block - self._dropped) * block
        require(found >= least > 0, f"{found:.0f} tokens were found in the cache, not {least}")
        require(self.engine.llm.reset_prefix_cache(), "the prefix cache could not be emptied")
        warm, (cold, added) = shared.run, shared.asking()
        again = added["cached"]
        require(again < found, f"{again:.0f} tokens were found after the cache was emptied")
        if shared.scheme is None:
            compare.equal_tokens(answers(cold), answers(warm), "cold and warm")
        return {"cached_tokens": found, "cached_tokens_when_emptied": again}


def ask_at_length(shared: Shared) -> None:
    """Put prompts of `LONG` tokens in the place of shorter ones."""
    if min(len(prompt) for prompt in shared.asked) < LONG:
        tokenizer = shared.reference.tokenizer
        shared.asked = prompts.long_prompts(tokenizer, len(shared.asked), LONG)


class ChunkedPrefill(Part):
    """Prompts are longer than the tokens that one step may take."""

    def prepare(self) -> None:
        ask_at_length(self.shared)

    def prove(self) -> dict[str, Any]:
        trace, budget = (
            self.engine.trace,
            self.engine.config.scheduler_config.max_num_batched_tokens,
        )
        require(trace is not None, "nobody recorded the steps")
        parts: dict[str, int] = {}
        for step in trace.steps if trace else []:
            size = sum(step.tokens.values())
            require(size <= budget, f"a step took {size} tokens; the budget is {budget}")
            for request in step.tokens:
                parts[request] = parts.get(request, 0) + 1
        long = [name for name, size in (trace.to_read if trace else {}).items() if size > budget]
        require(bool(long), f"no prompt had more than {budget} tokens to read")
        whole = [name for name in long if parts.get(name, 0) < 2]
        require(not whole, f"requests {whole} were read in one step")
        return {"prompts_read_in_parts": len(long), "tokens_per_step": budget}


class Bfloat16(Part):
    """The engine computes in bfloat16."""

    def prove(self) -> dict[str, Any]:
        dtype = str(self.engine.config.model_config.dtype)
        require(dtype == "torch.bfloat16", f"the engine runs in {dtype}")
        return {"dtype": dtype}


class AsyncScheduling(Part):
    """Steps are scheduled while the device works on the one before."""

    def prove(self) -> dict[str, Any]:
        run = self.shared.run
        on = self.engine.config.scheduler_config.async_scheduling
        require(on is True and self.engine.core.batch_queue_size > 1, "it is off")
        # The first step of a run has none before it, and the last may find an empty queue.
        least = (len(run.steps) - 2) // 2
        require(
            run.overlapping >= max(least, 1),
            f"only {run.overlapping} of {len(run.steps)} steps overlap with the one before",
        )
        return {"overlapping_steps": run.overlapping, "steps": len(run.steps)}


class Logprobs(Part):
    """The most likely tokens at each position of the answers."""

    def parameters(self) -> dict[str, Any]:
        return {"logprobs": TOP}

    def judged(self) -> dict[str, Any]:
        found: list[Mapping[int, float]] = []
        rows: list[Any] = []
        for number, completion in self.shared.completions:
            asked = self.shared.asked[number]
            given = self.shared.references[number].rows([*asked, *completion.token_ids])
            rows += self.shared.reported(given[len(asked) - 1 : -1], completion.token_ids)
            found += [{t: e.logprob for t, e in row.items()} for row in completion.logprobs]
        return _close_top(self.shared, found, rows, "top_logprob")


class PromptLogprobs(Part):
    """The most likely tokens at each position of the prompts."""

    def parameters(self) -> dict[str, Any]:
        return {"prompt_logprobs": TOP}

    def judged(self) -> dict[str, Any]:
        found: list[Mapping[int, float]] = []
        rows: list[Any] = []
        for number, output in enumerate(self.shared.run.outputs):
            asked, told = self.shared.asked[number], output.prompt_logprobs
            require(len(told) == len(asked), f"{len(told)} positions for {len(asked)} tokens")
            rows += list(self.shared.references[number].rows(asked)[:-1])
            found += [{t: e.logprob for t, e in row.items()} for row in told[1:]]
        return _close_top(self.shared, found, rows, "prompt_logprob")


def _close_top(
    shared: Shared, found: Sequence[Mapping[int, float]], rows: Sequence[Any], what: str
) -> dict[str, Any]:
    """Require the reference's logprobs for the tokens that came, which are its most likely ones."""
    fewest = min(len(position) for position in found)
    require(fewest >= TOP, f"{what}: {fewest} values at a position, not {TOP}")
    ours, theirs = list[float](), list[float]()
    for position, row in zip(found, rows, strict=True):
        for token, logprob in position.items():
            if math.isinf(logprob) and math.isinf(float(row[token])):
                continue  # a grammar leaves fewer tokens than are asked for
            ours.append(logprob)
            theirs.append(float(row[token]))
        if shared.scheme is None and not shared.has(*GUIDED):
            compare.close_top([position], [_best(row)], TOP, shared.ctx.dtype, what)
    agreement = shared.close(ours, theirs, what)
    return {"values": len(ours), "largest_difference": agreement[f"{what}_difference_max"][0]}


def _best(row: Any) -> list[tuple[int, float]]:
    values, tokens = row.topk(2 * TOP)
    return list(zip(tokens.tolist(), values.tolist(), strict=True))


class BestOfN(Part):
    """Several seeded samples of each prompt."""

    N = 4

    def prepare(self) -> None:
        self.shared.sampled = True

    def parameters(self) -> dict[str, Any]:
        return {"n": self.N, "temperature": 0.8, "seed": 11}

    def prove(self) -> dict[str, Any]:
        run = self.shared.run
        again, _ = self.shared.asking()
        counts = {len(output.outputs) for output in run.outputs}
        require(counts == {self.N}, f"{counts} samples came for a prompt, not {self.N}")
        compare.equal_tokens(answers(again), answers(run), "samples of the same seed")
        different = min(len({tuple(c.token_ids) for c in out.outputs}) for out in run.outputs)
        require(different > 1, "all samples of a prompt are the same")
        return {"samples": self.N * len(run.outputs), "fewest_different": different}


class BeamSearch(Part):
    """The most likely sequences that a beam of given width finds."""

    WIDTH, LENGTH = 3, 8

    def prepare(self) -> None:
        self.shared.call, self.shared.judge = self._search, self._verify

    def _search(self) -> Any:
        from vllm.sampling_params import BeamSearchParams

        params = BeamSearchParams(beam_width=self.WIDTH, max_tokens=self.LENGTH, ignore_eos=True)
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in self.shared.asked]
        loras = self.shared.adapters
        return self.engine.llm.beam_search(inputs, params, lora_request=list(loras))

    def prove(self) -> dict[str, Any]:
        counts = {len(output.sequences) for output in self.shared.run.outputs}
        require(counts == {self.WIDTH}, f"{counts} beams came back, not {self.WIDTH}")
        return {"beams": self.WIDTH * len(self.shared.asked)}

    def _verify(self) -> dict[str, tuple[float, str]]:
        """Require the reference's beams; up to ties, their scores, where dtypes round."""
        shared, ours, theirs = self.shared, list[float](), list[float]()
        for number, output in enumerate(shared.run.outputs):
            asked, reference = shared.asked[number], shared.references[number]
            found = [list(beam.tokens)[len(asked) :] for beam in output.sequences]
            if shared.scheme is None and shared.ctx.dtype == "float32":
                wanted = reference.beams(asked, self.WIDTH, self.LENGTH)
                compare.equal_tokens(found, [beam.tokens for beam in wanted], "beams")
            for beam, tokens in zip(output.sequences, found, strict=True):
                scored = reference.score(asked, tokens).continuation_logprobs
                ours.append(beam.cum_logprob / self.LENGTH)
                theirs.append(math.fsum(scored) / self.LENGTH)
        return {"beams": (len(ours), "beams"), **shared.close(ours, theirs, "beam_score")}


class Quantisation(Part):
    """Linear layers have int8 weights and inputs."""

    def prove(self) -> dict[str, Any]:
        layers = quantised.quantised_layers(self.engine)
        return quantised.proof_of_products(self.shared.run, *layers, str(self.shared.scheme))


class SleepMode(Part):
    """The idle engine gives its memory back, and serves as before when it is woken."""

    def prove(self) -> dict[str, Any]:
        import torch

        shared = self.shared
        weights = sum(self.engine.llm.apply_model(weight_bytes))
        awake = torch.npu.memory_allocated()
        self.engine.llm.sleep(level=1)
        torch.npu.synchronize()
        asleep = torch.npu.memory_allocated()
        require(
            awake - asleep >= weights, f"{awake - asleep} bytes were freed of weights of {weights}"
        )
        self.engine.llm.wake_up()
        again, _ = shared.asking()
        compare.equal_tokens(answers(again), answers(shared.run), "tokens after waking")
        return {"bytes_awake": awake, "bytes_asleep": asleep, "weights_bytes": weights}


class Speculation(Part):
    """Tokens are drafted, and checked several at a time."""

    DRAFTS = 3
    NOISE = 0.1

    def prepare(self) -> None:
        self.shared.speculative = True

    def settings(self) -> dict[str, Any]:
        return {"speculative_config": {**self._method(), "num_speculative_tokens": self.DRAFTS}}

    def _method(self) -> dict[str, Any]:
        shared, folder = self.shared, self.shared.ctx.workdir / self.name
        if self.name == "draft-model":
            return drafters.perturbed(shared.reference, folder, self.NOISE)
        make: Mapping[str, Callable[..., dict[str, Any]]] = {
            "medusa": drafters.medusa,
            "eagle": drafters.eagle,
            "eagle3": drafters.eagle3,
        }
        # Every other sequence: the rest has to be guessed by heads that never saw it.
        learnt = [shared.asked[i] + shared.expected(i) for i in range(1, len(shared.asked), 2)]
        return make[self.name](shared.reference, folder, learnt, self.DRAFTS)

    def prove(self) -> dict[str, Any]:
        added, run = self.shared.added, self.shared.run
        tokens = sum(len(answer) for answer in answers(run))
        steps = decode_steps(run, self.engine)
        require(added["drafted"] > 0, "vLLM's metrics count no draft: speculation was off")
        require(added["accepted"] > 0, f"none of {added['drafted']:.0f} drafts was accepted")
        require(steps < tokens, f"{tokens} tokens took {steps} steps of requests: none was saved")
        return {
            "drafted_tokens": added["drafted"],
            "accepted_tokens": added["accepted"],
            "steps_saved": tokens - steps,
        }


class Ngram(Speculation):
    """Drafts are what followed the last tokens where they stood before."""

    def prepare(self) -> None:
        super().prepare()
        shared = self.shared
        told = [shared.expected(number) for number in range(len(shared.asked))]
        pairs = zip(shared.asked, told, strict=True)
        shared.asked = [[*asked, *answer, *asked] for asked, answer in pairs]

    def _method(self) -> dict[str, Any]:
        return {"method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1}


class Suffix(Ngram):
    """Drafts are what a tree of suffixes says, of earlier answers too."""

    def _method(self) -> dict[str, Any]:
        return {"method": "suffix"}

    def prove(self) -> dict[str, Any]:
        method = self.engine.config.speculative_config.method
        require(method == "suffix", f"drafts are made by {method}")
        first = self.shared.added["accepted"]
        _, added = self.shared.asking()
        again = added["accepted"]
        require(
            again > first,
            f"{first:.0f} drafted tokens were accepted at first, {again:.0f} when the same was "
            "asked again: earlier answers were not drafted from",
        )
        return super().prove() | {"method": method, "accepted_when_asked_again": again}


class SlidingWindow(Part):
    """Some layers see the last tokens only, and prompts are longer than these."""

    def prepare(self) -> None:
        ask_at_length(self.shared)

    def prove(self) -> dict[str, Any]:
        window = int(self.engine.config.model_config.hf_text_config.sliding_window)
        shortest = min(len(prompt) for prompt in self.shared.asked)
        require(window < shortest, f"the window of {window} tokens holds a prompt of {shortest}")
        groups = self.engine.core.scheduler.kv_cache_config.kv_cache_groups
        kinds = sorted(type(group.kv_cache_spec).__name__ for group in groups)
        return {"window": window, "shortest_prompt": shortest, "cache_groups": kinds}

    def judged(self) -> dict[str, Any]:
        shared = self.shared
        size = 4 * max(len(prompt) for prompt in shared.asked)
        folder = generation.without_window(shared.folder, shared.ctx.workdir / "wide", size)
        return {"logprobs_moved_by_the_window": moved(shared, Reference(folder))}


class Sinks(Part):
    """A learnt logit of each head takes its share of attention."""

    def prove(self) -> dict[str, Any]:
        work = self.shared.run.work
        if work is None:
            return {}
        count = sum(work.launches.get(f"{device.ATTENTION}{v}", 0) for v in ("V4", "V5"))
        require(count > 0, "no attention was launched that takes sinks")
        return {"launches_with_sinks": count}

    def judged(self) -> dict[str, Any]:
        shared = self.shared
        folder = generation.without_sinks(shared.folder, shared.ctx.workdir / "without")
        return {"logprobs_moved_by_sinks": moved(shared, Reference(folder))}


def moved(shared: Shared, other: Reference) -> float:
    """Return by how much logprobs after the prompts of the base model differ from another's.

    Raises:
        GateFailed: by no more than the dtype's rounding may: that what the other one lacks was on
            would not show.
    """
    base = [prompt for i, prompt in enumerate(shared.asked) if shared.adapters[i] is None]
    rows = [(shared.reference.rows(prompt)[-1], other.rows(prompt)[-1]) for prompt in base]
    least = min(float((ours - theirs).abs().mean()) for ours, theirs in rows)
    allowed = compare.LOGPROB_TOLERANCE[shared.ctx.dtype]
    require(least > allowed, f"logprobs differ by {least:.4f} nats only; {allowed} is rounding")
    return least


def decode_steps(run: Run, engine: Engine) -> int:
    """In how many steps each request got tokens, summed; steps that only read a prompt are none."""
    steps = 0
    for request, sizes in run.per_request().items():
        left = engine.trace.to_read.get(request, 0) if engine.trace else 0
        for size in sizes:
            left -= size
            steps += left <= 0
    return steps


PARTS: Mapping[str, type[Part]] = {
    "lora": Lora,
    "quantisation": Quantisation,
    "bfloat16": Bfloat16,
    "async-scheduling": AsyncScheduling,
    "prefix-caching": PrefixCaching,
    "chunked-prefill": ChunkedPrefill,
    "sliding-window": SlidingWindow,
    "attention-sinks": Sinks,
    "sampling-controls": SamplingControls,
    **dict.fromkeys(GUIDED, GuidedDecoding),
    "logprobs": Logprobs,
    "prompt-logprobs": PromptLogprobs,
    "best-of-n": BestOfN,
    "beam-search": BeamSearch,
    "ngram-speculation": Ngram,
    "suffix-speculation": Suffix,
    **dict.fromkeys(MODELS, Speculation),
    "sleep-mode": SleepMode,
}
"""Feature to its part, in the order in which parts shape the prompts and prove themselves."""
