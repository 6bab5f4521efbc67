"""Attention of the encoders of images and sounds, without a cache: one fused launch a layer over
all the sequences of a batch, or one a sequence where a chip has no fused operator.
"""

from __future__ import annotations

import numpy as np
import torch
import torch_npu
from torch.nn.functional import pad
from torch.utils.weak import WeakIdKeyDictionary
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.utils.math_utils import round_up
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from vllm_ascend.attention.backend import ALL
from vllm_ascend.chips import chip

WIDTHS = (64, 128)
"""Heads that the packed layout takes where each query head has a key head of its own (CANN's
operator documentation, aclnnFusedInferAttentionScore, layout TND). Others are filled up with
zeros, which change no product."""

ALIGNMENT = 16
"""What a wider head is a multiple of, in 16-bit types."""

_ends: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Ends of sequences, by the tensor that all layers of an encoder are given: one copy a batch."""


class AscendMMEncoderAttention(MMEncoderAttention):
    """Every token of a sequence sees all tokens of its own sequence."""

    @classmethod
    def maybe_recompute_cu_seqlens(
        cls,
        attn_backend: AttentionBackendEnum,
        cu_seqlens: np.ndarray,
        hidden_size: int,
        tp_size: int,
        device: torch.device,
        fp8_padded_hidden_size: int | None = None,
    ) -> torch.Tensor:
        """Leaves the borders of sequences on the host, where the operator wants them."""
        return torch.from_numpy(cu_seqlens)

    def forward_oot(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        max_seqlen: torch.Tensor | None = None,
        sequence_lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attends; query, key and value are [batch, tokens, heads * head_size] or [batch, tokens,
        heads, head_size], of ``cu_seqlens`` (running total of tokens from 0 on, one batch) or of
        as many sequences as the batch has.
        """
        packed = [self._packed(x) for x in (query, key, value)]
        if cu_seqlens is not None:
            query_ends = key_ends = _ends_of(cu_seqlens)
        else:
            query_ends, key_ends = (
                list(range(x.shape[1], x.shape[0] * x.shape[1] + 1, x.shape[1]))
                for x in (query, key)
            )
        if chip().has("npu_fused_infer_attention_score"):
            attended = self._fused(*packed, query_ends, key_ends)
        else:
            attended = self._apart(*packed, query_ends, key_ends)
        # Contiguous as vLLM's own is: some encoders look at it as [tokens, hidden size].
        return attended[..., : self.head_size].reshape(query.shape).contiguous()

    def _packed(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens of the batch, heads, width that the operator takes]."""
        wide = next((w for w in WIDTHS if w >= self.head_size), None)
        missing = (wide or round_up(self.head_size, ALIGNMENT)) - self.head_size
        heads = x.reshape(x.shape[0] * x.shape[1], -1, self.head_size)
        return pad(heads, (0, missing)) if missing else heads.contiguous()

    def _fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_ends: list[int],
        key_ends: list[int],
    ) -> torch.Tensor:
        return torch_npu.npu_fused_infer_attention_score(
            query,
            key,
            value,
            actual_seq_lengths=query_ends,
            actual_seq_lengths_kv=key_ends,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            scale=self.scale,
            input_layout="TND",
            sparse_mode=ALL,
        )[0]

    def _apart(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_ends: list[int],
        key_ends: list[int],
    ) -> torch.Tensor:
        """A call for each sequence, with a key head for each query head."""
        groups = self.num_heads // self.num_kv_heads
        attended, rows, keys = [], 0, 0
        for row_end, key_end in zip(query_ends, key_ends, strict=True):
            parts = (query[rows:row_end], *(x[keys:key_end] for x in (key, value)))
            rows, keys = row_end, key_end
            own = [
                x.repeat_interleave(self.num_heads // x.shape[1], 1) if groups > 1 else x
                for x in parts
            ]
            one = torch_npu.npu_prompt_flash_attention(
                *(x.transpose(0, 1).contiguous().unsqueeze(0) for x in own),
                num_heads=self.num_heads,
                scale_value=self.scale,
                input_layout="BNSD",
            )
            attended.append(one[0].transpose(0, 1))
        return torch.cat(attended)


def _ends_of(cu_seqlens: torch.Tensor) -> list[int]:
    """The running total behind each sequence; some models give it on the device, layer by layer."""
    known: list[int] | None = _ends.get(cu_seqlens)
    if known is None:
        known = _ends[cu_seqlens] = cu_seqlens.tolist()[1:]
    return known
