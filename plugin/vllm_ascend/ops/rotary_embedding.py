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

NEIGHBOURS = "npu_rotary_mul, interleave"
"""What a chip lacks whose operator turns the halves of a head only, not neighbouring numbers."""

BLOCK = 64
"""Bytes: a head, and the part of it that turns, are whole blocks (CANN's operator documentation,
aclnnRopeWithSinCosCacheV2, constraints). Phi-2's heads of 80 in 16 bits are not."""


def _at_once(head_size: int, table: Tensor) -> bool:
    """Whether one launch turns query and key; table: [positions, rotary width]."""
    widths = (head_size, table.shape[-1])
    aligned = all(width * table.element_size() % BLOCK == 0 for width in widths)
    return aligned and chip().has("npu_mrope")


def _turned(x: Tensor, cos: Tensor, sin: Tensor, mode: str) -> Tensor:
    """x: [batch, tokens, heads, width]; cos, sin: [tokens, width / 2]; mode: half (the halves of a
    head turn together) or interleave (neighbours do).
    """

    def whole(table: Tensor) -> Tensor:
        twice = table.repeat(1, 2) if mode == "half" else table.repeat_interleave(2, dim=-1)
        return twice[None, :, None].to(x.dtype)

    return torch_npu.npu_rotary_mul(x.contiguous(), whole(cos), whole(sin), mode)


class _Fused:
    """Rotates query and key in one launch, or in one each.

    positions: [tokens], int64; query: [tokens, heads * head_size] or [tokens, heads, head_size];
    key: the same with its heads.
    """

    def forward_oot(
        self, positions: Tensor, query: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        mode = "half" if self.is_neox_style else "interleave"  # type: ignore[attr-defined]
        if key is None or (mode == "interleave" and not chip().has(NEIGHBOURS)):
            return self.forward_native(positions, query, key)  # type: ignore[attr-defined]
        table = self._match_cos_sin_cache_dtype(query)  # type: ignore[attr-defined]
        if not _at_once(self.head_size, table):  # type: ignore[attr-defined]
            cos, sin = table.index_select(0, positions.flatten()).chunk(2, -1)
            return self._apart(query, cos, sin, mode), self._apart(key, cos, sin, mode)
        rotated = torch_npu.npu_mrope(
            positions.flatten(),
            query.reshape(positions.numel(), -1),
            key.reshape(positions.numel(), -1),
            table,
            self.head_size,  # type: ignore[attr-defined]
            mrope_section=_NO_SECTIONS,
            rotary_mode=mode,
        )
        return rotated[0].view(query.shape), rotated[1].view(key.shape)

    def _apart(self, x: Tensor, cos: Tensor, sin: Tensor, mode: str) -> Tensor:
        """One of query and key, of whose heads the first 2 * cos.shape[-1] numbers turn."""
        width = 2 * cos.shape[-1]
        heads = x.view(1, len(cos), -1, self.head_size)  # type: ignore[attr-defined]
        turned = _turned(heads[..., :width], cos, sin, mode)
        if width < heads.shape[-1]:
            turned = torch.cat((turned, heads[..., width:]), dim=-1)
        return turned.view(x.shape)


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
        table = self._match_cos_sin_cache_dtype(query)
        if offsets is not None or key is None or not self._fits(positions, table):
            return self.forward_native(positions, query, key, offsets)
        return torch_npu.npu_mrope(
            positions,
            query.contiguous(),
            key.contiguous(),
            table,
            self.head_size,
            mrope_section=_NO_SECTIONS if positions.ndim == 1 else self.mrope_section,
            rotary_mode="half" if self.is_neox_style else "interleave",
            cache_mode="interleave" if self.mrope_interleaved and positions.ndim > 1 else "default",
        )

    def _fits(self, positions: Tensor, table: Tensor) -> bool:
        known = positions.ndim == 1 or self.mrope_section in SECTIONS
        return known and _at_once(self.head_size, table)


class AscendApplyRotaryEmb(ApplyRotaryEmb):
    """Turns x by given angles, as the encoders of images do."""

    def forward_oot(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [(batch,) tokens, heads, head_size]; cos, sin: [tokens, head_size / 2]."""
        if cos.ndim != 2 or not (self.is_neox_style or chip().has(NEIGHBOURS)):
            return self.forward_native(x, cos, sin)
        rows, cos, sin, shape, dtype = self._pre_process(x, cos, sin)
        turned = _turned(rows, cos, sin, "half" if self.is_neox_style else "interleave")
        return self._post_process(turned, shape, dtype)
