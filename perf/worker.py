"""The process with one tree's engine: measures when it is asked to, and judges nothing.

Started by `perf.processes` with the variables of a device: `python -m perf.worker SPEC`. It reads a
JSON object a line on its standard input, and answers with one a line on its standard output.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT = "The harbour has three piers, a market that opens at seven, and a lighthouse. " * 40


@dataclass(frozen=True)
class Spec:
    """What one process runs.

    Attributes:
        checkpoint: folder of the model.
        plugin: folder from which vllm_ascend has to come.
        engine: keyword arguments for vllm.LLM.
        prompt_tokens: length of each prompt.
        tokens: decoded tokens of each sequence after the first.
        threads: threads of the CPU.
    """

    checkpoint: str
    plugin: str
    engine: dict[str, Any]
    prompt_tokens: int
    tokens: int
    threads: int


def main(arguments: Sequence[str]) -> int:
    """Start the engine, then answer one line at a time until there is no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log

    def tell(answer: object) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    engine = Engine(Spec(**json.loads(Path(arguments[0]).read_text())))
    tell(engine.description())
    for line in sys.stdin:
        tell(engine.measure(int(json.loads(line)["batch"])))
    engine.llm.llm_engine.engine_core.shutdown()
    return 0


class Engine:
    """A running engine with counted scheduler steps and timed engine steps."""

    def __init__(self, spec: Spec) -> None:
        import torch

        torch.set_num_threads(spec.threads)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import vllm_ascend

        self.plugin = str(Path(vllm_ascend.__file__).resolve())
        if Path(spec.plugin).resolve() not in Path(self.plugin).parents:
            raise RuntimeError(f"vllm_ascend comes from {self.plugin}, not from {spec.plugin}")
        from vllm import LLM

        gc.freeze()  # vLLM collects garbage often while it starts, over all that was imported
        self.spec, self.llm = spec, LLM(model=spec.checkpoint, **spec.engine)
        self.scheduled: list[int] = []
        self.seconds: list[float] = []
        scheduler = self.llm.llm_engine.engine_core.engine_core.scheduler
        scheduler.schedule = self._counted(scheduler.schedule)
        self.llm.llm_engine.step = self._timed(self.llm.llm_engine.step)

    def description(self) -> dict[str, Any]:
        """Return where the model runs and what of it multiplies: layers."""
        import cannsim
        from vllm.platforms import current_platform

        config = self.llm.llm_engine.vllm_config
        return {
            "platform": current_platform.device_type,
            "weights_on": self.llm.apply_model(_devices)[0],
            "layers": int(config.model_config.hf_text_config.num_hidden_layers),
            "prefix_caching": bool(config.cache_config.enable_prefix_caching),
            "async_scheduling": bool(config.scheduler_config.async_scheduling),
            "plugin": self.plugin,
            "simulator": str(Path(cannsim.__file__).resolve().parent),
        }

    def measure(self, batch: int) -> dict[str, Any]:
        """Return the counters of prefill and decode, and the host's seconds per decode step.

        Counters are differences of whole generations, so that nothing depends on when the work of
        one step is counted: one generation of a single token is the prefill; a second of more
        tokens, less the first, is the decoding.
        """
        prompts = self._prompts(batch)
        prefill = self._generate(prompts, 1)
        longer = self._generate(prompts, 1 + self.spec.tokens)
        decode = _subtract(longer["counters"], prefill["counters"])
        decode["engine"].pop("cached_prompt_tokens")  # belongs to the prefill of both
        # The prefill's steps and the first step after it are no steady decoding.
        steady = self.seconds[prefill["counters"]["engine"]["steps"] + 1 :]
        return {
            "prefill": prefill["counters"],
            "decode": decode,
            "peak_memory": longer["peak_memory"],
            # The mean: where the host waits moves time between steps, and not out of their sum.
            "seconds_per_step": statistics.fmean(steady),
            "tokens": longer["tokens"],
        }

    def _generate(self, prompts: list[Any], tokens: int) -> dict[str, Any]:
        from cannsim import counters
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        self.scheduled.clear()
        self.seconds.clear()
        before = counters.snapshot()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        after = counters.snapshot()
        counted = counters.difference(after, before)
        generated = [list(output.outputs[0].token_ids) for output in outputs]
        return {
            "counters": {
                **{part: counted[part] for part in ("launches", "copies")},
                "synchronizations": counted["synchronizations"],
                "events": counted["events"],
                "allocations": {"device": counted["allocations"]},
                "engine": {
                    "steps": len(self.scheduled),
                    "computed_tokens": sum(self.scheduled),
                    "cached_prompt_tokens": sum(o.num_cached_tokens or 0 for o in outputs),
                },
            },
            "peak_memory": sum(device["peak"] for device in after["memory"]),
            "tokens": hashlib.sha256(json.dumps(generated).encode()).hexdigest()[:16],
        }

    def _prompts(self, batch: int) -> list[Any]:
        """Return prompts of equal length that differ from the first token on."""
        tokens = list(self.llm.get_tokenizer()(TEXT)["input_ids"])
        length = self.spec.prompt_tokens
        return [{"prompt_token_ids": tokens[i : i + length]} for i in range(batch)]

    def _counted(self, schedule: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            output = schedule(*arguments, **named)
            if output.total_num_scheduled_tokens:
                self.scheduled.append(output.total_num_scheduled_tokens)
            return output

        return call

    def _timed(self, step: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            started = time.perf_counter()
            output = step()
            self.seconds.append(time.perf_counter() - started)
            return output

        return call


def _subtract(later: Any, earlier: Any) -> Any:
    if isinstance(later, dict):
        names = [*later, *(name for name in earlier if name not in later)]
        return {
            name: _subtract(
                later.get(name, _nothing(earlier.get(name))),
                earlier.get(name, _nothing(later.get(name))),
            )
            for name in names
        }
    return later - earlier


def _nothing(value: Any) -> Any:
    return {} if isinstance(value, dict) else 0


def _devices(model: Any) -> list[str]:
    return sorted({weight.device.type for weight in model.parameters()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
