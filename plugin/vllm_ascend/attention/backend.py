"""Attention by CANN's fused inference attention, one call a layer: prefill, decode, chunked prefill
and sliding window over a paged cache, cross attention over an encoder's, and encoders without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch_npu
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionLayer,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

from vllm_ascend.attention.capped import CappedAttention
from vllm_ascend.chips import chip

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheSpec

BLOCK_SIZE = 128
"""Tokens in a block of the cache: fused attention takes multiples of 128 for more than one query
token (CANN's operator documentation, aclnnFusedInferAttentionScore, ``blockSize``)."""

MASK_SIZE = 2048
"""Side of the compressed causal mask that sparse modes 2, 3 and 4 take."""

ALL = 0
"""Sparse mode without a mask: every row sees every key."""

CAUSAL = 3
"""Sparse mode: causal, the last query row standing at the last key."""

BAND = 4
"""Sparse mode: as CAUSAL, and at most ``pre_tokens`` keys before each row's own."""


@cache
def causal_mask(device: torch.device) -> torch.Tensor:
    """[2048, 2048] bool on ``device``: true where a key comes after the query. One a device."""
    return torch.ones(MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=device).triu(1)


@cache
def unused_lse(device: torch.device) -> torch.Tensor:
    """[1] float32 on ``device``: the operator wants a second output even when it writes none."""
    return torch.empty(1, dtype=torch.float32, device=device)


def _block_by_block(vllm_config: VllmConfig) -> bool:
    """Whether blocks of other layers, which hold states, share the memory of attention's."""
    model = vllm_config.model_config
    return model is not None and model.is_hybrid


@dataclass
class AscendMetadata:
    """What attention needs of one step, for all layers of a cache group.

    Attributes:
        num_tokens: query tokens of the batch, without padding.
        query_ends: running total of query tokens after each request (host).
        seq_lens: keys of each request, those of this step included (host).
        key_counts: [requests], int32: the same on the device, exact also while the host's are the
            most that they can be.
        block_table: [requests, blocks a request], int32, on the device.
        slot_mapping: [tokens], the cache slot of each new token; negative is padding.
        causal: whether a query sees only the keys up to its own.
    """

    num_tokens: int
    query_ends: list[int]
    seq_lens: list[int]
    key_counts: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    causal: bool = True


class AscendMetadataBuilder(AttentionMetadataBuilder[AscendMetadata]):
    """Takes lengths from the host's copies, so that nothing waits for the device: operators want
    them on the host. While drafts are in flight only the device knows how many were accepted.
    """

    def __init__(
        self,
        kv_cache_spec: KVCacheSpec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        drafts = vllm_config.speculative_config is not None
        self.together = _block_by_block(vllm_config)
        self.host_knows = not (drafts and vllm_config.scheduler_config.async_scheduling)

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> AscendMetadata:
        common = common_attn_metadata
        seq_lens = common.seq_lens_cpu_upper_bound if self.host_knows else common.seq_lens
        assert seq_lens is not None, "vLLM's model runner always gives the host's lengths"
        table = common.block_table_tensor[: common.num_reqs]
        return AscendMetadata(
            num_tokens=common.num_actual_tokens,
            query_ends=common.query_start_loc_cpu[1 : common.num_reqs + 1].tolist(),
            seq_lens=seq_lens[: common.num_reqs].tolist(),
            key_counts=common.seq_lens[: common.num_reqs],
            block_table=table * 2 if self.together else table,
            slot_mapping=common.slot_mapping,
            causal=common.causal,
        )

    def build_for_drafting(
        self, common_attn_metadata: CommonAttentionMetadata, draft_index: int
    ) -> AscendMetadata:
        # vLLM moves the device's lengths from draft to draft; the host's it lets stand.
        exact = common_attn_metadata.replace(
            seq_lens_cpu_upper_bound=common_attn_metadata.seq_lens.cpu()
        )
        return super().build_for_drafting(exact, draft_index)


class AscendAttentionImpl(AttentionImpl[AscendMetadata]):
    """One layer's attention.

    Query is [tokens, heads, head_size]; key and value are [tokens, kv_heads, head_size].
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
    ) -> None:
        if alibi_slopes is not None:
            raise NotImplementedError("ALiBi is not supported by fused inference attention")
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.sliding_window = sliding_window
        self.kv_cache_dtype = kv_cache_dtype
        self.attn_type = attn_type
        self.kv_sharing_target_layer_name = kv_sharing_target_layer_name
        self.sinks = sinks
        self.together = _block_by_block(get_current_vllm_config())
        self.capped = None
        if logits_soft_cap:
            self.capped = CappedAttention(self.scale, float(logits_soft_cap), sliding_window)

    def caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The key and the value cache, each [blocks, block_size, kv_heads, head_size], contiguous.

        vLLM gives one tensor a layer, logically [blocks, kv_heads, block_size, 2 * head_size];
        the operators want two, so the layer's memory is read as two halves. Nobody else looks
        into a block: blocks of a group are only ever written and read here. Where they do, keys
        and values of a block alternate, and each cache has twice the blocks, every second its own.
        """
        blocks, heads, tokens, _ = kv_cache.shape
        if self.together:
            every = kv_cache.permute(0, 2, 1, 3).view(2 * blocks, tokens, heads, self.head_size)
            return every[:-1], every[1:]
        halves = kv_cache.permute(0, 2, 1, 3).view(2, blocks, tokens, heads, self.head_size)
        return halves[0], halves[1]

    def slots(self, slot_mapping: torch.Tensor) -> torch.Tensor:
        """The slots of new tokens in either of ``caches``; negative ones stay so."""
        if not self.together:
            return slot_mapping
        return slot_mapping + slot_mapping // BLOCK_SIZE * BLOCK_SIZE

    def do_kv_cache_update(
        self,
        layer: AttentionLayer,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Writes the step's keys and values into their slots."""
        if kv_cache.numel() == 0:
            return
        tokens = slot_mapping.shape[0]
        slot_mapping = self.slots(slot_mapping)
        key_cache, value_cache = self.caches(kv_cache)
        torch_npu.npu_scatter_pa_kv_cache(
            key[:tokens].contiguous(),
            value[:tokens].contiguous(),
            key_cache,
            value_cache,
            slot_mapping,
            cache_mode="Norm",
        )

    def forward(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: AscendMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attends to the cache; fills ``output`` [tokens, heads, head_size] and returns it."""
        if attn_metadata is None:  # profiling run: no cache yet
            return output.zero_()
        tokens = attn_metadata.num_tokens
        keys: dict[str, Any]
        if self.capped is not None:
            self.capped(query, self.caches(kv_cache), attn_metadata, output)
            return output
        if self.attn_type in (AttentionType.ENCODER, AttentionType.ENCODER_ONLY):
            keys = {"key": key[:tokens], "value": value[:tokens]}
            key_lengths = attn_metadata.query_ends
        else:
            key_cache, value_cache = self.caches(kv_cache)
            keys = {
                "key": key_cache.flatten(2),
                "value": value_cache.flatten(2),
                "block_table": attn_metadata.block_table,
                "block_size": key_cache.shape[1],
            }
            key_lengths = attn_metadata.seq_lens
        self._attend(
            query[:tokens],
            attn_metadata.query_ends,
            key_lengths,
            output[:tokens],
            **keys,
            **self._mask(query.device, attn_metadata.causal),
        )
        return output

    def _attend(
        self,
        query: torch.Tensor,
        query_lengths: list[int],
        key_lengths: list[int],
        output: torch.Tensor,
        **options: Any,
    ) -> None:
        """Calls the operator, whose second version, with other names, is the one with sinks."""
        options |= {"num_key_value_heads": self.num_kv_heads, "input_layout": "TND"}
        out = [output, unused_lse(query.device)]
        if self.sinks is None:
            torch_npu.npu_fused_infer_attention_score.out(
                query,
                actual_seq_lengths=query_lengths,
                actual_seq_lengths_kv=key_lengths,
                num_heads=self.num_heads,
                scale=self.scale,
                **options,
                out=out,
            )
        else:
            torch_npu.npu_fused_infer_attention_score_v2.out(
                query,
                actual_seq_qlen=query_lengths,
                actual_seq_kvlen=key_lengths,
                num_query_heads=self.num_heads,
                softmax_scale=self.scale,
                learnable_sink=self.sinks,
                **options,
                out=out,
            )

    def _mask(self, device: torch.device, causal: bool) -> dict[str, Any]:
        """Which keys a row sees: all up to its own (of a window), or all (of a window)."""
        if self.sliding_window is None:
            rule = {"sparse_mode": CAUSAL if causal else ALL}
        else:
            before = self.sliding_window - 1
            rule = {
                "sparse_mode": BAND,
                "pre_tokens": before,
                "next_tokens": 0 if causal else before,
            }
        if rule["sparse_mode"] == ALL:
            return rule
        return {**rule, "atten_mask": causal_mask(device)}


class AscendAttentionBackend(AttentionBackend):
    """Attention of decoders over a paged cache, and of encoders."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    forward_includes_kv_cache_update = False

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[AscendAttentionImpl]:
        if chip().has("npu_fused_infer_attention_score"):
            return AscendAttentionImpl
        from vllm_ascend.attention.separate import SeparateAttentionImpl

        return SeparateAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[AscendMetadataBuilder]:
        return AscendMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(
        kv_cache_spec: KVCacheSpec | None = None,
    ) -> list[int | MultipleOf]:
        return [BLOCK_SIZE]

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @classmethod
    def supports_sink(cls) -> bool:
        return chip().has("npu_fused_infer_attention_score_v2")

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        fused = chip().has("npu_fused_infer_attention_score")
        return fused or attn_type == AttentionType.DECODER

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        # Layer outermost: each layer's memory is one contiguous piece, as `caches` needs.
        return (KVCacheLayout.LBNHC,)
