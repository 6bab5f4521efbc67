"""The decode benchmark: the engine on an NPU next to transformers' eager generation on the CPU.

Over the simulator both compute on the same CPU, in the same process and with the same number of
threads, so that the ratio says what engine, plugin and simulator cost together. It says nothing
about the speed of an NPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perf.statistics import Interval, decode_rate, ratio_interval

Generate = Callable[[int], Any]
"""Generates that many tokens for every prompt of the batch."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        checkpoint: folder of the checkpoint.
        model: its name in the matrix.
        dtype: what both compute in.
        batches: numbers of sequences that are decoded together.
        prompt_tokens: length of each prompt.
        tokens: generated tokens of each sequence whose time is measured.
        repeats: measured pairs; one more pair is run first and dropped.
        threads: threads of the CPU.
    """

    checkpoint: Path
    model: str
    dtype: str = "float32"
    batches: tuple[int, ...] = (1, 8)
    prompt_tokens: int = 32
    tokens: int = 64
    repeats: int = 5
    threads: int = 2

    SHORT = 4
    """Tokens of the generation that is subtracted (prefill and first steps)."""


@dataclass
class Result:
    """The rates of one batch size, in decoded tokens per second, one entry per repeat."""

    batch: int
    engine: list[float] = field(default_factory=list)
    transformers: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Interval:
        """Engine over transformers."""
        return ratio_interval(self.engine, self.transformers)

    def as_json(self) -> dict[str, Any]:
        """Return rates and ratio as plain data."""
        return {**asdict(self), "ratio": asdict(self.ratio)}


def measure(settings: Settings, report: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Run the benchmark.

    Args:
        settings: what is measured.
        report: called with a line of text whenever something was measured.

    Returns:
        One result per batch size.
    """
    import torch

    torch.set_num_threads(settings.threads)
    report("starting the engine")
    llm, theirs = _engine(settings), _transformers(settings)
    results = []
    for batch in settings.batches:
        prompts = _prompts(settings, batch)
        pair = (_engine_generation(llm, prompts), _transformers_generation(theirs, prompts))
        results.append(_interleave(settings, batch, pair, report))
    llm.llm_engine.engine_core.shutdown()
    return results


def _interleave(
    settings: Settings,
    batch: int,
    pair: tuple[Generate, Generate],
    report: Callable[[str], None],
) -> Result:
    """Alternate between the two, each first in every other repeat, so that drift hits both."""
    result = Result(batch)
    for repeat in range(settings.repeats + 1):
        order = (0, 1) if repeat % 2 else (1, 0)
        rates = {index: _rate(settings, batch, pair[index]) for index in order}
        if repeat == 0:
            continue
        result.engine.append(rates[0])
        result.transformers.append(rates[1])
        report(
            f"batch {batch}, {repeat} of {settings.repeats}: engine {rates[0]:.1f}, "
            f"transformers {rates[1]:.1f} tokens/s"
        )
    return result


def _rate(settings: Settings, batch: int, generate: Generate) -> float:
    short, long = settings.SHORT, settings.SHORT + settings.tokens
    return decode_rate(batch, short, long, _seconds(generate, short), _seconds(generate, long))


def _seconds(generate: Generate, tokens: int) -> float:
    started = time.perf_counter()
    generate(tokens)
    return time.perf_counter() - started


def _prompts(settings: Settings, batch: int) -> list[list[int]]:
    """Return prompts of equal length that differ from each other."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings.checkpoint)
    text = "The harbour has three piers, a market that opens at seven, and a lighthouse. " * 20
    tokens = list(tokenizer(text)["input_ids"])
    return [tokens[i : i + settings.prompt_tokens] for i in range(batch)]


def _engine(settings: Settings) -> Any:
    """Start the engine in this process, so that both use the threads of one process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM
    from vllm.platforms import current_platform

    if current_platform.device_type != "npu":
        raise RuntimeError(
            f"vLLM found the platform {current_platform.device_type!r}, not 'npu'. Start this in "
            "an environment with torch-npu and the plugin (`cannsim run` gives a simulated one)."
        )
    return LLM(
        model=str(settings.checkpoint),
        dtype=settings.dtype,
        max_model_len=512,
        max_num_seqs=max(settings.batches),
        max_num_batched_tokens=512,
        kv_cache_memory_bytes=512 << 20,
        enable_prefix_caching=False,
        seed=0,
    )


def _engine_generation(llm: Any, prompts: Sequence[Sequence[int]]) -> Generate:
    from vllm import SamplingParams

    inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]

    def generate(tokens: int) -> Any:
        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        return llm.generate(inputs, params, use_tqdm=False)

    return generate


def _transformers(settings: Settings) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, settings.dtype)
    return AutoModelForCausalLM.from_pretrained(settings.checkpoint, dtype=dtype).eval()


def _transformers_generation(model: Any, prompts: Sequence[Sequence[int]]) -> Generate:
    import torch

    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)

    def generate(tokens: int) -> Any:
        with torch.inference_mode():
            return model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )

    return generate
