"""What a worker would have measured, made up for tests: two layers, ten decode steps."""

from __future__ import annotations

import copy
from typing import Any

from perf.verdicts import Finding

LAYERS, STEPS = 2, 10


def phase(steps: int, tokens: int) -> dict[str, Any]:
    return {
        "launches": {
            "aclnnMatmul": {"count": 8 * steps, "bytes": 4096 * steps},
            "aclnnSwiGlu": {"count": LAYERS * steps, "bytes": 512 * steps},
        },
        "copies": {
            "host_to_device": {"count": 3 * steps, "bytes": 96 * steps},
            "device_to_host": {"count": steps, "bytes": 8 * steps},
        },
        "synchronizations": {"stream": steps, "device": 0, "event": 0},
        "events": {"recorded": 2 * steps, "waits": steps},
        "allocations": {"device": 0},
        "engine": {"steps": steps, "computed_tokens": tokens},
    }


def measurement(seconds: float = 0.01) -> dict[str, Any]:
    made = {
        "prefill": phase(1, 22),
        "decode": phase(STEPS, STEPS),
        "peak_memory": 1 << 20,
        "seconds_per_step": seconds,
        "tokens": "abc",
    }
    made["prefill"]["engine"]["cached_prompt_tokens"] = 128
    return made


def finding(
    head: dict[str, Any] | None = None, ratios: tuple[float, ...] = (1.0, 1.01, 0.99)
) -> Finding:
    """Return a finding whose head has these counters, and these times over the base's.

    Each pair is of a start of its own.
    """
    made = Finding("qwen3/base/cann-9.1.0/a2", 1, 0.05, LAYERS)
    for ratio in ratios:
        made.base.append(measurement())
        other = copy.deepcopy(head) if head else measurement()
        other["seconds_per_step"] = 0.01 * ratio
        made.head.append(other)
        made.starts.append(len(made.starts))
    return made
