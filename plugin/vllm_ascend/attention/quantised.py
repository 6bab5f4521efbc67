"""Attention over a cache of int8 keys and values with a scale and a zero a channel.

Requests with one new token are attended together, by the operator that reads int8 as it is. It
takes no cache in pages where a request has more, so the pages of those are gathered and restored;
what a token sees is the same either way, and does not depend on where a prompt was cut.
"""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor
from vllm.v1.attention.backend import AttentionLayer

from vllm_ascend.attention.backend import AscendAttentionImpl, AscendMetadata
from vllm_ascend.attention.separate import SeparateAttentionImpl
from vllm_ascend.quantization.products import Kept

BY_CHANNEL = 0
"""The operator's mode of scales: one for each number of a token (``key_antiquant_mode``)."""


class Codes(Kept):
    """int8 codes of numbers: ``(code - zero) * scale``.

    Args:
        scale: [channels], float32.
        zero: [channels], whole numbers.
        dtype: of the numbers; the operators want scales in it, so they are rounded to it.
    """

    def __init__(self, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        scale, zero = scale.to(dtype), zero.round()
        self.keep("scale", scale.float())
        self.keep("zero", zero.int())
        self.keep("shift", -zero.float())
        self.keep("operand_scale", scale.view(1, -1))
        self.keep("operand_shift", -zero.to(dtype).view(1, -1))

    def quantise(self, numbers: Tensor) -> Tensor:
        """Codes of numbers [tokens, heads, head_size], in the same shape."""
        rows = numbers.flatten(1)
        codes = torch_npu.npu_quantize(rows, self.scale, self.zero, torch.qint8, -1, True)
        return codes.view(numbers.shape)

    def restore(self, codes: Tensor) -> Tensor:
        """The numbers of codes [.., channels], in ``dtype``."""
        return torch_npu.npu_anti_quant(
            codes, self.scale, offset=self.shift, dst_dtype=self.dtype, src_dtype=torch.int8
        )


class QuantisedCacheImpl(SeparateAttentionImpl):
    """One layer's attention over int8 keys and values.

    Attributes:
        codes: of keys, and of values; whoever loads the scales sets them.
    """

    codes: tuple[Codes, Codes]

    @classmethod
    def instead_of(cls, plain: AscendAttentionImpl) -> QuantisedCacheImpl:
        """The same layer's attention, over int8."""
        return cls(
            plain.num_heads,
            plain.head_size,
            plain.scale,
            plain.num_kv_heads,
            sliding_window=plain.sliding_window,
            kv_cache_dtype=plain.kv_cache_dtype,
            attn_type=plain.attn_type,
            kv_sharing_target_layer_name=plain.kv_sharing_target_layer_name,
        )

    def do_kv_cache_update(
        self,
        layer: AttentionLayer,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        slot_mapping: Tensor,
    ) -> None:
        """Writes the codes of the step's keys and values into their slots."""
        if kv_cache.numel() == 0:
            return
        tokens = slot_mapping.shape[0]
        keys, values = (
            codes.quantise(new[:tokens])
            for codes, new in zip(self.codes, (key, value), strict=True)
        )
        torch_npu.npu_scatter_pa_kv_cache(
            keys, values, *self.caches(kv_cache), slot_mapping, cache_mode="Norm"
        )

    def _single(
        self, query: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: list[int]
    ) -> Tensor:
        of_keys, of_values = self.codes
        return torch_npu.npu_fused_infer_attention_score(
            query,
            keys,
            values,
            key_antiquant_scale=of_keys.operand_scale,
            key_antiquant_offset=of_keys.operand_shift,
            value_antiquant_scale=of_values.operand_scale,
            value_antiquant_offset=of_values.operand_shift,
            key_antiquant_mode=BY_CHANNEL,
            value_antiquant_mode=BY_CHANNEL,
            actual_seq_lengths_kv=lengths,
            block_table=table,
            block_size=keys.shape[1],
            num_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            scale=self.scale,
            input_layout="BSH",
        )[0]

    def _prompt(
        self,
        query: Tensor,
        caches: tuple[Tensor, Tensor],
        metadata: AscendMetadata,
        request: int,
    ) -> Tensor:
        length, block = metadata.seq_lens[request], caches[0].shape[1]
        pages = metadata.block_table[request, : -(-length // block)]
        keys, values = (
            codes.restore(cache[pages].flatten(2))
            for codes, cache in zip(self.codes, caches, strict=True)
        )
        attended = torch.empty_like(query)
        self._attend(
            query,
            [query.shape[0]],
            [length],
            attended,
            key=keys,
            value=values,
            block_table=torch.arange(len(pages), dtype=torch.int32, device=query.device)[None],
            block_size=block,
            **self._mask(query.device, metadata.causal),
        )
        return attended
