"""Multi-head latent attention (DeepSeek's) over a paged cache of latents: fused inference attention
in its latent form, for every token of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch_npu
from vllm.model_executor.layers.attention.mla_attention import (
    MLACommonBackend,
    MLACommonImpl,
    MLACommonMetadata,
)
from vllm.v1.attention.backend import AttentionLayer, CommonAttentionMetadata, MultipleOf
from vllm.v1.attention.backends.mla.prefill.base import MLAPrefillBackend
from vllm.v1.kv_cache_interface import KVCacheSpec
from vllm.v1.kv_cache_layout import KVCacheLayout

from vllm_ascend.attention.backend import (
    BLOCK_SIZE,
    CAUSAL,
    AscendMetadata,
    AscendMetadataBuilder,
    causal_mask,
    unused_lse,
)


@dataclass(kw_only=True)
class AscendLatentMetadata(AscendMetadata):
    """One step, all of it "decode" in vLLM's words: queries are moved into the latent space, and
    read the cache, however many of them a request has.
    """

    num_actual_tokens: int
    num_decodes: int
    num_decode_tokens: int
    num_prefills: int = 0
    prefill: None = None

    @property
    def decode(self) -> AscendLatentMetadata:
        return self


class AscendLatentMetadataBuilder(AscendMetadataBuilder):
    """Adds vLLM's counts of decodes, which are all requests, and of prefills, which are none."""

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> AscendLatentMetadata:
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        return AscendLatentMetadata(
            **vars(metadata),
            num_actual_tokens=metadata.num_tokens,
            num_decodes=len(metadata.seq_lens),
            num_decode_tokens=metadata.num_tokens,
        )


class AscendLatentImpl(MLACommonImpl[MLACommonMetadata]):
    """One layer's attention: all heads share one key of kv_lora_rank + qk_rope_head_dim numbers a
    token, whose first part is also the value.
    """

    def caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents and the rotated parts, each [blocks, block_size, 1, size], contiguous.

        vLLM gives [blocks, block_size, kv_lora_rank + qk_rope_head_dim]; the operators want two
        tensors, so the layer's memory is read as two pieces.
        """
        blocks, tokens, _ = kv_cache.shape
        sizes = [blocks * tokens * n for n in (self.kv_lora_rank, self.qk_rope_head_dim)]
        latent, rotated = kv_cache.view(-1).split(sizes)
        return latent.view(blocks, tokens, 1, -1), rotated.view(blocks, tokens, 1, -1)

    def do_kv_cache_update(
        self,
        kv_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
        kv_cache_dtype: str,
        k_scale: torch.Tensor,
    ) -> None:
        """Writes the step's latents [tokens, rank] and rotated keys [tokens, 1, size]."""
        if kv_cache.numel() == 0:
            return
        tokens = slot_mapping.shape[0]
        latent, rotated = self.caches(kv_cache)
        torch_npu.npu_scatter_pa_kv_cache(
            kv_c_normed[:tokens].unsqueeze(1).contiguous(),
            k_pe[:tokens].contiguous(),
            latent,
            rotated,
            slot_mapping,
            cache_mode="Norm",
        )

    def forward_mqa(
        self,
        q: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        kv_c_and_k_pe_cache: torch.Tensor,
        attn_metadata: AscendLatentMetadata,  # type: ignore[override]
        layer: AttentionLayer,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """q: latent part [tokens, heads, rank] and rotated part [tokens, heads, size].

        Returns what the heads read, [tokens, heads, rank], in the latent space.
        """
        query, query_rope = q
        latent, rotated = self.caches(kv_c_and_k_pe_cache)
        block_size = latent.shape[1]
        output = torch.empty_like(query)
        torch_npu.npu_fused_infer_attention_score.out(
            query,
            latent.flatten(2),
            latent.flatten(2),
            query_rope=query_rope.contiguous(),
            key_rope=rotated.flatten(2),
            atten_mask=causal_mask(query.device),
            actual_seq_lengths=attn_metadata.query_ends,
            actual_seq_lengths_kv=attn_metadata.seq_lens,
            block_table=attn_metadata.block_table,
            num_heads=self.num_heads,
            num_key_value_heads=1,
            scale=self.scale,
            input_layout="TND",
            block_size=block_size,
            sparse_mode=CAUSAL,
            out=[output, unused_lse(query.device)],
        )
        return output, None


class AscendLatentBackend(MLACommonBackend):
    """Latent attention over a paged cache."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]

    @staticmethod
    def get_name() -> str:
        return "ASCEND_LATENT"

    @staticmethod
    def get_impl_cls() -> type[AscendLatentImpl]:
        return AscendLatentImpl

    @staticmethod
    def get_builder_cls() -> type[AscendLatentMetadataBuilder]:  # type: ignore[override]
        return AscendLatentMetadataBuilder

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return [576]  # the operator's latent form: 512, and 64 that are rotated

    @staticmethod
    def get_supported_kernel_block_sizes(
        kv_cache_spec: KVCacheSpec | None = None,
    ) -> list[int | MultipleOf]:
        return [BLOCK_SIZE]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        # Layer outermost: each layer's memory is one contiguous piece, as `caches` needs.
        return (KVCacheLayout.LBNHC,)


class NoPrefillBackend(MLAPrefillBackend):
    """Stands where vLLM asks for the other form of attention, in which no step is computed here."""

    @staticmethod
    def get_name() -> str:
        return "ASCEND_LATENT"

    def run_prefill_new_tokens(self, *arguments: object, **named: object) -> torch.Tensor:
        raise NotImplementedError("every token of a step goes through latent attention on an NPU")

    run_prefill_context_chunk = run_prefill_new_tokens  # type: ignore[assignment]
