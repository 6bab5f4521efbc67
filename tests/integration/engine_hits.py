"""Serves one prompt in this process and writes what was reached: engine_hits.py CHECKPOINT OUT."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from cannsim import counters
from vllm import LLM, SamplingParams
from vllm_ascend import shims

reached: Counter[str] = Counter()


def recording(shim: shims.Shim) -> shims.Shim:
    """The same shim, counting each use of its replacement."""
    real = shim.replacement()

    if isinstance(real, type):

        class Recorded(real):  # type: ignore[misc, valid-type]
            def __new__(cls, *args: Any, **kwargs: Any) -> Any:
                reached[shim.target] += 1
                return super().__new__(cls, *args, **kwargs)

        replacement: Any = Recorded
    else:

        def replacement(*args: Any, **kwargs: Any) -> Any:
            reached[shim.target] += 1
            return real(*args, **kwargs)

    return dataclasses.replace(shim, replacement=lambda: replacement)


def main(checkpoint: str, out: Path) -> None:
    shims.SHIMS = tuple(recording(shim) for shim in shims.SHIMS)
    llm = LLM(
        checkpoint,
        dtype="float32",
        max_model_len=256,
        max_num_batched_tokens=256,
        max_num_seqs=4,
        kv_cache_memory_bytes=16 << 20,
    )
    engine = llm.llm_engine.engine_core.engine_core
    worker = engine.model_executor.driver_worker.worker
    before = counters.snapshot()
    llm.generate(
        ["The quick brown fox"],
        SamplingParams(temperature=0, max_tokens=8, ignore_eos=True),
        use_tqdm=False,
    )
    during = counters.difference(counters.snapshot(), before)

    qualified = lambda thing: f"{type(thing).__module__}.{type(thing).__qualname__}"  # noqa: E731
    model = worker.model_runner.get_model()
    out.write_text(
        json.dumps(
            {
                "shims": dict(reached),
                "worker": qualified(worker),
                "runner": qualified(worker.model_runner),
                "layers": sorted({type(module).__name__ for module in model.modules()}),
                "async_scheduling": worker.vllm_config.scheduler_config.async_scheduling,
                "layer_count": model.config.num_hidden_layers,
                "launches": {name: tally["count"] for name, tally in during["launches"].items()},
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
