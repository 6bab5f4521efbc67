"""The process with the engine: measures logprobs and answers tasks, and judges nothing.

Started by `accuracy.runs` with the variables of a device: `python -m accuracy.worker SPEC OUT`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accuracy.gates import Position
from accuracy.prompts import GENERATED, TEXTS, TOP

SEED = 0
"""Seed of everything that could draw; decoding is greedy."""

ENGINE: dict[str, Any] = {
    "kv_cache_memory_bytes": 512 << 20,
    "max_num_seqs": 32,
    "max_num_batched_tokens": 512,
    # A sequence is computed from its first token on, so that all of it can be compared.
    "enable_prefix_caching": False,
    "seed": SEED,
}
"""Engine settings below what the model and the feature say."""


@dataclass(frozen=True)
class Spec:
    """What one process does.

    Attributes:
        checkpoint: folder of the model.
        engine: keyword arguments for vllm.LLM above `ENGINE`; holds `dtype`.
        data: folder for the items of tasks.
        tasks: task to the number of its items.
        reference: answer the tasks with transformers, and start no engine.
        threads: threads of the CPU, 0 for torch's own choice.
    """

    checkpoint: str
    engine: dict[str, Any]
    data: str
    tasks: dict[str, int] = field(default_factory=dict)
    reference: bool = False
    threads: int = 0


def main(arguments: Sequence[str]) -> int:
    """Do what the spec file says, and write what was measured as JSON."""
    spec, out = Spec(**json.loads(Path(arguments[0]).read_text())), Path(arguments[1])
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(run(spec)))
    temporary.replace(out)
    return 0


def run(spec: Spec) -> dict[str, Any]:
    """Return platform, positions, answers and seconds, as plain data."""
    clock = Clock()
    if spec.reference:
        with clock("reference"):
            return {"reference": answer(transformers_model(spec), spec), "timings": clock.seconds}
    if spec.threads:
        import torch

        torch.set_num_threads(spec.threads)
    with clock("import"):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import vllm  # noqa: F401
    with clock("engine_start"):
        gc.freeze()  # vLLM collects garbage often while it starts, over all that was imported
        model, llm = start(spec)
    found: dict[str, Any] = {"platform": platform(llm)}
    with clock("port"):
        sequences = generate(llm)
    if spec.tasks:
        with clock("tasks"):
            found["answers"] = answer(model, spec)
    llm.llm_engine.engine_core.shutdown()
    with clock("port_reference"):
        found["positions"] = [asdict(position) for position in compare(sequences, spec)]
    return {**found, "timings": clock.seconds}


class Clock:
    """Adds up the seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - started


# ------------------------------------------------------------------------------------------- models


def start(spec: Spec) -> tuple[Any, Any]:
    """Start the engine; return lm-eval's model around it (None without tasks), and the engine."""
    arguments = {**ENGINE, **spec.engine}
    if not spec.tasks:
        from vllm import LLM

        return None, LLM(model=spec.checkpoint, **arguments)
    from lm_eval.models.vllm_causallms import VLLM

    model = VLLM(pretrained=spec.checkpoint, batch_size="auto", **arguments)
    return model, model.model


def transformers_model(spec: Spec) -> Any:
    """Return lm-eval's model around transformers on the CPU in float32."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=spec.checkpoint, device="cpu", dtype="float32", batch_size=8)


def platform(llm: Any) -> dict[str, Any]:
    """Say where the engine computes."""
    from vllm.platforms import current_platform

    extensions = os.environ.get("CANNSIM_EXTENSIONS")
    return {
        "platform": current_platform.device_type,
        "platform_class": type(current_platform).__qualname__,
        "weights_on": llm.apply_model(_devices)[0],
        "dtype": str(llm.llm_engine.vllm_config.model_config.dtype).removeprefix("torch."),
        **({"simulator_extensions": extensions} if extensions else {}),
    }


def _devices(model: Any) -> list[str]:
    return sorted({weight.device.type for weight in model.parameters()})


# ------------------------------------------------------------------------------------ the port gate


@dataclass(frozen=True)
class Generated:
    """A prompt and what the engine generated, with the engine's logprobs of every token.

    Attributes:
        tokens: prompt and continuation.
        prompt_length: how many of them are the prompt.
        likely: for each token but the first, token to logprob: the most likely ones and itself.
    """

    tokens: list[int]
    prompt_length: int
    likely: list[dict[int, float]]


def generate(llm: Any) -> list[Generated]:
    """Generate greedily after each prompt, with the logprobs of prompt and continuation."""
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    longest = llm.llm_engine.model_config.max_model_len - GENERATED
    prompts = [{"prompt_token_ids": tokenizer(text)["input_ids"][:longest]} for text in TEXTS]
    params = SamplingParams(
        temperature=0.0,
        max_tokens=GENERATED,
        ignore_eos=True,
        prompt_logprobs=TOP,
        logprobs=TOP,
        detokenize=False,
    )
    return [_sequence(output) for output in llm.generate(prompts, params, use_tqdm=False)]


def _sequence(output: Any) -> Generated:
    completion = output.outputs[0]
    entries = [*output.prompt_logprobs[1:], *completion.logprobs]
    likely = [{token: entry.logprob for token, entry in e.items()} for e in entries]
    prompt = list(output.prompt_token_ids)
    return Generated([*prompt, *completion.token_ids], len(prompt), likely)


def compare(sequences: Sequence[Generated], spec: Spec) -> list[Position]:
    """Score the engine's own tokens with transformers in float32, and pair the two."""
    import torch
    from transformers import AutoModelForCausalLM

    # Out of parts: torch's fused attention leaves the cap of scores (Gemma 2) out.
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(spec.checkpoint, **options).eval()
    positions = []
    for number, sequence in enumerate(sequences):
        with torch.inference_mode():
            logits = model(torch.tensor([sequence.tokens])).logits[0, :-1].float()
        reference = torch.log_softmax(logits, dim=-1)
        for place, likely in enumerate(sequence.likely):
            positions.append(_position(number, place, sequence, likely, reference[place]))
    return positions


def _position(
    number: int, place: int, sequence: Generated, likely: dict[int, float], reference: Any
) -> Position:
    """Pair what both said about the token after `place`; `reference` is [vocabulary]."""
    token = sequence.tokens[place + 1]
    # The engine lists the actual token too; only the most likely ones form a distribution's head.
    top = sorted(likely.items(), key=lambda item: -item[1])[:TOP]
    best = int(reference.argmax())
    decoded = place + 1 >= sequence.prompt_length
    if decoded:  # what was generated is what the engine held most likely, also in a tie
        top.sort(key=lambda item: (item[0] != token, -item[1]))
    return Position(
        prompt=number,
        index=place + 1,
        phase="decode" if decoded else "prefill",
        token=token,
        engine=likely[token],
        reference=float(reference[token]),
        engine_top=tuple(top),
        reference_at_top=tuple(float(reference[t]) for t, _ in top),
        reference_best=best,
        reference_best_logprob=float(reference[best]),
    )


# ---------------------------------------------------------------------------------------- the tasks


def answer(model: Any, spec: Spec) -> dict[str, list[dict[str, Any]]]:
    """Let lm-eval ask every task; return task to one entry per item."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from accuracy import loading

    chosen = {name: loading.load(name) for name in spec.tasks}
    found = simple_evaluate(
        model=model,
        tasks=[
            loading.configuration(task, Path(spec.data), spec.tasks[name])
            for name, task in chosen.items()
        ],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        random_seed=SEED,
        numpy_random_seed=SEED,
        torch_random_seed=SEED,
        fewshot_random_seed=SEED,
    )
    assert found is not None, "lm-eval returns nothing only on other ranks than the first"
    return {
        name: [_item(sample, task.score) for sample in found["samples"][name]]
        for name, task in chosen.items()
    }


def _item(sample: dict[str, Any], score: str) -> dict[str, Any]:
    """Return what is kept of one answer: which item, what was answered, and whether it is right.

    The hash is of the item and of the prompt made of it: both have to be the same to be paired.
    """
    identity = f"{sample['doc_hash']} {sample['prompt_hash']} {sample['target_hash']}"
    response = json.dumps(sample["resps"], default=str)
    return {
        "hash": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "correct": bool(round(float(sample[score]))),
        # Generated text, or for every choice its logprob; equal hashes mean equal to the last bit.
        "output": hashlib.sha256(response.encode()).hexdigest()[:16],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
