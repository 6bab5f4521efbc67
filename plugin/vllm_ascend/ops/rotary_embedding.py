"""Rotary position embedding by CANN's fused operators: of text, for every variant that only differs
in its table of cosines and sines; of text and images, in three dimensions; of an encoder's patches.
"""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.common import ApplyRotaryEmb
from vllm.model_executor.layers.rotary_embedding.linear_scaling_rope import (
    LinearScalingRotaryEmbedding,
)
from vllm.model_executor.layers.rotary_embedding.llama3_rope import Llama3RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import YaRNScalingRotaryEmbedding

from vllm_ascend.chips import chip

_NO_SECTIONS = [0, 0, 0]
"""Sections are those of a multimodal position; text has one position a token."""


SECTIONS = ([16, 24, 24], [24, 20, 20], [8, 12, 12])
"""Frequencies of time, height and width that the operator knows (CANN's operator documentation,
aclnnRopeWithSinCosCacheV2, ``mropeSection``): Qwen2-VL's, Qwen3-VL's and GLM-4V's."""

INTERLEAVED = "npu_mrope, interleaved"
"""What a chip lacks whose operator takes the sections one after the other only."""


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


class AscendMRotaryEmbedding(MRotaryEmbedding):
    """Positions in time, height and width, each of which turns its section of the frequencies."""

    def forward_oot(
        self,
        positions: Tensor,
        query: Tensor,
        key: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """positions: [tokens] or [3, tokens], int64; query: [tokens, heads * head_size]; key: the
        same with its heads.
        """
        if offsets is not None or key is None or not self._fits(positions):
            return self.forward_native(positions, query, key, offsets)
        return torch_npu.npu_mrope(
            positions,
            query.contiguous(),
            key.contiguous(),
            self._match_cos_sin_cache_dtype(query),
            self.head_size,
            mrope_section=_NO_SECTIONS if positions.ndim == 1 else self.mrope_section,
            rotary_mode="half" if self.is_neox_style else "interleave",
            cache_mode="interleave" if self.mrope_interleaved and positions.ndim > 1 else "default",
        )

    def _fits(self, positions: Tensor) -> bool:
        if not chip().has("npu_mrope"):
            return False
        if positions.ndim == 1:
            return True
        known = self.mrope_section in SECTIONS
        return known and (not self.mrope_interleaved or chip().has(INTERLEAVED))


class AscendApplyRotaryEmb(ApplyRotaryEmb):
    """Turns x by given angles, as the encoders of images do."""

    def forward_oot(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [(batch,) tokens, heads, head_size]; cos, sin: [tokens, head_size / 2]."""
        if cos.ndim != 2:
            return self.forward_native(x, cos, sin)
        rows, cos, sin, shape, dtype = self._pre_process(x, cos, sin)
        turned = torch_npu.npu_rotary_mul(
            rows.contiguous(),
            self._whole(cos, rows.dtype),
            self._whole(sin, rows.dtype),
            "half" if self.is_neox_style else "interleave",
        )
        return self._post_process(turned, shape, dtype)

    def _whole(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        """[1, tokens, 1, head_size]: each angle where the two numbers are that it turns."""
        twice = table.repeat(1, 2) if self.is_neox_style else table.repeat_interleave(2, dim=-1)
        return twice[None, :, None].to(dtype)
