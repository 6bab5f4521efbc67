"""Rotary position embedding by CANN's fused operator, for every variant that only differs in its
table of cosines and sines.
"""

from __future__ import annotations

import torch_npu
from torch import Tensor
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.linear_scaling_rope import (
    LinearScalingRotaryEmbedding,
)
from vllm.model_executor.layers.rotary_embedding.llama3_rope import Llama3RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import YaRNScalingRotaryEmbedding

from vllm_ascend.chips import chip

_NO_SECTIONS = [0, 0, 0]
"""Sections are those of a multimodal position; text has one position a token."""


class _Fused:
    """Rotates query and key in one launch.

    positions: [tokens], int64; query: [tokens, heads * head_size] or [tokens, heads, head_size];
    key: the same with its heads.
    """

    def forward_oot(
        self, positions: Tensor, query: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if key is None or not chip().has("npu_mrope"):
            return self.forward_native(positions, query, key)  # type: ignore[attr-defined]
        table = self._match_cos_sin_cache_dtype(query)  # type: ignore[attr-defined]
        rotated = torch_npu.npu_mrope(
            positions.flatten(),
            query.reshape(positions.numel(), -1),
            key.reshape(positions.numel(), -1),
            table,
            self.head_size,  # type: ignore[attr-defined]
            mrope_section=_NO_SECTIONS,
            rotary_mode="half" if self.is_neox_style else "interleave",  # type: ignore[attr-defined]
        )
        return rotated[0].view(query.shape), rotated[1].view(key.shape)


class AscendRotaryEmbedding(_Fused, RotaryEmbedding):
    """The plain form."""


class AscendLlama3RotaryEmbedding(_Fused, Llama3RotaryEmbedding):
    """Llama 3's frequency-dependent scaling."""


class AscendLinearScalingRotaryEmbedding(_Fused, LinearScalingRotaryEmbedding):
    """Positions divided by a factor."""


class AscendYaRNScalingRotaryEmbedding(_Fused, YaRNScalingRotaryEmbedding):
    """YaRN."""
