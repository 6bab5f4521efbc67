"""Sparse latent attention (DeepSeek-V3.2, GLM-5): an indexer that scores all earlier tokens and
keeps the best, and latent attention over those, by CANN's operators for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch_npu
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention.sparse_mla_attention import SharedTopkIndicesBuffer
from vllm.model_executor.layers.mla import MultiHeadLatentAttentionWrapper
from vllm.model_executor.models.deepseek_v2 import DeepseekV32IndexerCache, Indexer
from vllm.v1.attention.backend import AttentionBackend, AttentionLayer, CommonAttentionMetadata

from vllm_ascend.attention.backend import CAUSAL
from vllm_ascend.attention.latent import (
    AscendLatentBackend,
    AscendLatentImpl,
    AscendLatentMetadata,
    AscendLatentMetadataBuilder,
)

ABSORBED = 2
"""Attention mode: queries in the latent space, all heads over one key (CANN's operator
documentation, aclnnSparseFlashAttention, ``attentionMode``)."""


@dataclass(kw_only=True)
class AscendSparseMetadata(AscendLatentMetadata):
    """One step; these operators want lengths on the device.

    Attributes:
        row_ends: [requests], int32: running total of query tokens after each request.
    """

    row_ends: torch.Tensor


class AscendSparseMetadataBuilder(AscendLatentMetadataBuilder):
    """The same for the indexer's cache and for that of latents."""

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> AscendSparseMetadata:
        common = common_attn_metadata
        metadata = super().build(common_prefix_len, common, fast_build)
        ends = common.query_start_loc[1 : common.num_reqs + 1]
        return AscendSparseMetadata(**vars(metadata), row_ends=ends)


class AscendSparseImpl(SharedTopkIndicesBuffer, AscendLatentImpl):
    """One layer's attention over the tokens that an indexer chose, this layer's or an earlier."""

    is_sparse = True
    supports_dense_mha_prefill = False

    def __init__(
        self,
        *arguments: Any,
        indexer: object | None = None,
        topk_indices_buffer: torch.Tensor | None = None,
        index_group_builder: object | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, indexer=indexer, **named)
        self.init_topk_indices_buffer(indexer, topk_indices_buffer)

    def record_logical_topk_ready(self) -> None:
        """Nothing else waits for the indexer's choice."""

    def forward_mqa(
        self,
        q: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        kv_c_and_k_pe_cache: torch.Tensor,
        attn_metadata: AscendSparseMetadata,  # type: ignore[override]
        layer: AttentionLayer,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """q: latent part [tokens, heads, rank] and rotated part [tokens, heads, size].

        Returns what the heads read, [tokens, heads, rank], in the latent space.
        """
        query, query_rope = q
        latent, rotated = self.caches(kv_c_and_k_pe_cache)
        chosen = cast(torch.Tensor, self.topk_indices_buffer)[: len(query)]
        output, _, _ = torch_npu.npu_sparse_flash_attention(
            query.contiguous(),
            latent,
            latent,
            chosen.unsqueeze(1),
            self.scale,
            block_table=attn_metadata.block_table,
            actual_seq_lengths_query=attn_metadata.row_ends,
            actual_seq_lengths_kv=attn_metadata.key_counts,
            query_rope=query_rope.contiguous(),
            key_rope=rotated,
            sparse_block_size=1,
            layout_query="TND",
            layout_kv="PA_BSND",
            sparse_mode=CAUSAL,
            attention_mode=ABSORBED,
        )
        return output, None


class AscendSparseBackend(AscendLatentBackend):
    """Latent attention over chosen tokens of a paged cache."""

    supported_dtypes = (torch.float16, torch.bfloat16)

    @staticmethod
    def get_name() -> str:
        return "ASCEND_SPARSE_LATENT"

    @classmethod
    def is_sparse(cls) -> bool:
        return True

    @staticmethod
    def get_impl_cls() -> type[AscendSparseImpl]:
        return AscendSparseImpl

    @staticmethod
    def get_builder_cls() -> type[AscendSparseMetadataBuilder]:  # type: ignore[override]
        return AscendSparseMetadataBuilder


class AscendIndexerBackend(AscendSparseBackend):
    """The cache of the indexer's keys; what is read of it is read by the indexer itself."""

    @staticmethod
    def get_name() -> str:
        return "ASCEND_INDEXER"

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return []


class AscendIndexerCache(DeepseekV32IndexerCache):
    """Keys in the model's own type, instead of FP8 with a scale."""

    def get_attn_backend(self) -> type[AttentionBackend]:
        return AscendIndexerBackend


class AscendIndexer(torch.nn.Module):
    """vLLM's indexer, its weights and its buffer, around CANN's operator."""

    def __init__(self, indexer: Indexer) -> None:
        super().__init__()
        self.indexer = indexer
        config, old = get_current_vllm_config(), indexer.k_cache
        # A cache registers itself under its name, which vLLM's own has taken.
        del config.compilation_config.static_forward_context[old.prefix]
        indexer.k_cache = AscendIndexerCache(
            indexer.head_dim, config.model_config.dtype, old.prefix, old.cache_config
        )

    @property
    def topk_tokens(self) -> int:
        return self.indexer.topk_tokens

    def forward(
        self,
        hidden_states: torch.Tensor,
        qr: torch.Tensor,
        positions: torch.Tensor,
        rotary_emb: torch.nn.Module,
    ) -> None:
        """Writes the step's keys, and of each token [tokens, hidden] the places of its best
        ``topk_tokens`` keys into the shared buffer; -1 where there are fewer.
        """
        own = self.indexer
        steps = get_forward_context().attn_metadata
        if not isinstance(steps, dict):  # profiling: no cache yet
            return
        step = steps[own.k_cache.prefix]
        tokens, rope = step.num_tokens, own.rope_dim
        query = own.wq_b(qr)[0].view(-1, own.n_head, own.head_dim)
        mixed = own.wk_weights_proj(hidden_states)[0]
        key = own.k_norm(mixed[:, : own.head_dim]).to(mixed.dtype).unsqueeze(1)
        rotated = rotary_emb(
            positions, query[..., :rope].contiguous(), key[..., :rope].contiguous()
        )
        query, key = (
            torch.cat([turned.view(x.shape[0], -1, rope), x[..., rope:]], -1)
            for turned, x in zip(rotated, (query, key), strict=True)
        )
        self.choose(query[:tokens], key[:tokens], mixed[:tokens, own.head_dim :], step)

    def choose(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        weights: torch.Tensor,
        step: AscendSparseMetadata,
    ) -> None:
        """query: [tokens, heads, size]; key: [tokens, 1, size]; weights: [tokens, heads]. A key's
        score is the sum over heads of weight * relu(query . key), the released scales left out:
        they are the same for all keys.
        """
        own, cache = self.indexer, self.indexer.k_cache.kv_cache
        slots = step.slot_mapping[: len(key)].view(-1, 1)
        torch_npu.npu_scatter_nd_update_(cache.view(-1, own.head_dim), slots, key.squeeze(1))
        chosen, _ = torch_npu.npu_lightning_indexer(
            query,
            cache.unsqueeze(2),
            weights.contiguous(),
            actual_seq_lengths_query=step.row_ends,
            actual_seq_lengths_key=step.key_counts,
            block_table=step.block_table,
            layout_query="TND",
            layout_key="PA_BSND",
            sparse_count=own.topk_tokens,
            sparse_mode=CAUSAL,
        )
        own.topk_indices_buffer[: len(query)] = chosen.view(len(query), -1)


class AscendLatentAttentionWrapper(MultiHeadLatentAttentionWrapper):
    """vLLM's layer of latent attention, with this indexer where it has one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.indexer is not None:
            self.indexer = AscendIndexer(self.indexer)
