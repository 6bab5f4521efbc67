"""A process with a fault planted in the plugin, which then measures as every accuracy run does.

`python accuracy_faults.py FAULT SPEC OUT`; the last two are those of `accuracy.worker`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def rope_shifted_by_one() -> None:
    """Queries are turned as if they stood one position later.

    Shifting queries and keys alike would change nothing: only their distance matters.
    """
    from vllm_ascend.ops import rotary_embedding

    turn = rotary_embedding._Fused.forward_oot

    def shifted(self: Any, positions: Any, query: Any, key: Any = None) -> Any:
        later = positions.flatten() + 1
        return turn(self, later, query, key)[0], turn(self, positions, query, key)[1]

    rotary_embedding._Fused.forward_oot = shifted


def rope_shifted_when_decoding() -> None:
    """As `rope_shifted_by_one`, but only in steps that compute a single token."""
    from vllm_ascend.ops import rotary_embedding

    turn = rotary_embedding._Fused.forward_oot

    def shifted(self: Any, positions: Any, query: Any, key: Any = None) -> Any:
        later = positions.flatten() + int(positions.numel() <= len(TEXTS))
        return turn(self, later, query, key)[0], turn(self, positions, query, key)[1]

    from accuracy.prompts import TEXTS

    rotary_embedding._Fused.forward_oot = shifted


def attention_without_scale() -> None:
    """Scores of queries and keys are not divided by the root of the head's size."""
    from vllm_ascend.attention.backend import AscendAttentionImpl

    prepare = AscendAttentionImpl.__init__

    def unscaled(self: Any, *arguments: Any, **named: Any) -> None:
        prepare(self, *arguments, **named)
        self.scale = 1.0

    AscendAttentionImpl.__init__ = unscaled


def norm_epsilon_too_large() -> None:
    """RMS normalisation adds 1e-2 to the mean square."""
    import torch_npu
    from vllm_ascend.ops import normalization

    normalization.torch_npu = SimpleNamespace(
        npu_rms_norm=lambda x, weight, _: torch_npu.npu_rms_norm(x, weight, 1e-2),
        npu_add_rms_norm=lambda x, residual, weight, _: torch_npu.npu_add_rms_norm(
            x, residual, weight, 1e-2
        ),
        npu_gemma_rms_norm=torch_npu.npu_gemma_rms_norm,
    )


def healthy() -> None:
    """No fault."""


FAULTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        healthy,
        rope_shifted_by_one,
        rope_shifted_when_decoding,
        attention_without_scale,
        norm_epsilon_too_large,
    )
}
"""What can be planted, by name."""


if __name__ == "__main__":
    import vllm  # noqa: F401 - finds the platform before its parts are touched

    from accuracy.worker import main

    FAULTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
