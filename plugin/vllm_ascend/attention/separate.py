"""Paged attention for chips without the fused operator: writing, prefill and decode apart.

Decode is one call for all sequences with one new token; every other sequence has its keys gathered
and a call of its own.
"""

from __future__ import annotations

import torch
import torch_npu
from vllm.v1.attention.backend import AttentionLayer

from vllm_ascend.attention.backend import AscendAttentionImpl, AscendMetadata

UNBOUNDED = 2**31 - 1
"""As many keys before or after a row as there are: the mask alone says which are hidden."""


class SeparateAttentionImpl(AscendAttentionImpl):
    """One layer's attention: ``npu_incre_flash_attention`` and ``npu_prompt_flash_attention``."""

    def do_kv_cache_update(
        self,
        layer: AttentionLayer,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Writes the step's keys and values into their slots, as rows of the flattened cache."""
        if kv_cache.numel() == 0:
            return
        slots = self.slots(slot_mapping).view(-1, 1)
        for cache, new in zip(self.caches(kv_cache), (key, value), strict=True):
            rows = cache.view(-1, self.num_kv_heads * self.head_size)
            torch_npu.npu_scatter_nd_update_(rows, slots, new[: len(slots)].flatten(1))

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
        caches = self.caches(kv_cache)
        if self.capped is not None:
            self.capped(query, caches, attn_metadata, output)
            return output
        ends = attn_metadata.query_ends
        starts = [0, *ends[:-1]]
        # The window's rule needs a mask, which only the other operator takes.
        single = [
            i
            for i, (start, end) in enumerate(zip(starts, ends, strict=True))
            if end - start == 1 and self.sliding_window is None
        ]
        if single:
            self._decode(query, caches, attn_metadata, single, [starts[i] for i in single], output)
        for i in sorted(set(range(len(ends))) - set(single)):
            rows = slice(starts[i], ends[i])
            output[rows] = self._prompt(query[rows], caches, attn_metadata, i)
        return output

    def _decode(
        self,
        query: torch.Tensor,
        caches: tuple[torch.Tensor, torch.Tensor],
        metadata: AscendMetadata,
        requests: list[int],
        rows: list[int],
        output: torch.Tensor,
    ) -> None:
        """Attention of requests with one new token each, at ``rows`` of query and output."""
        everything = len(requests) == len(metadata.query_ends)
        own, table = query[: len(rows)], metadata.block_table
        # A step that also has prompts takes rows apart; their numbers, known to the host alone, are
        # copied to the device. A step of decode only copies nothing.
        if not everything:
            own, table = query[rows], table[requests]
        keys, values = (cache.flatten(2) for cache in caches)
        result = self._single(
            own.flatten(1).unsqueeze(1),
            keys,
            values,
            table.contiguous(),
            [metadata.seq_lens[i] for i in requests],
        ).view(own.shape)
        if everything:
            output[: len(rows)] = result
        else:
            output[rows] = result

    def _single(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        table: torch.Tensor,
        lengths: list[int],
    ) -> torch.Tensor:
        """Attention of requests with one row each, [requests, 1, heads * head_size], over pages
        [blocks, block_size, kv_heads * head_size].
        """
        return torch_npu.npu_incre_flash_attention(
            query,
            keys,
            values,
            actual_seq_lengths=lengths,
            block_table=table,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            scale_value=self.scale,
            input_layout="BSH",
            block_size=keys.shape[1],
        )

    def _prompt(
        self,
        query: torch.Tensor,
        caches: tuple[torch.Tensor, torch.Tensor],
        metadata: AscendMetadata,
        request: int,
    ) -> torch.Tensor:
        """Attention of one request's new tokens, [tokens, heads, head_size]."""
        length, new = metadata.seq_lens[request], query.shape[0]
        pages = metadata.block_table[request, : -(-length // caches[0].shape[1])]
        groups = self.num_heads // self.num_kv_heads
        # The operator has no grouped heads here: a key head is given once for each of its queries.
        keys, values = (
            cache[pages]
            .flatten(0, 1)[:length]
            .repeat_interleave(groups, 1)
            .transpose(0, 1)
            .contiguous()
            .unsqueeze(0)
            for cache in caches
        )
        attended = torch_npu.npu_prompt_flash_attention(
            query.transpose(0, 1).contiguous().unsqueeze(0),
            keys,
            values,
            atten_mask=self._hidden(new, length, query.device),
            num_heads=self.num_heads,
            scale_value=self.scale,
            pre_tokens=UNBOUNDED,
            next_tokens=UNBOUNDED,
            input_layout="BNSD",
        )
        return attended[0].transpose(0, 1)

    def _hidden(self, new: int, length: int, device: torch.device) -> torch.Tensor:
        """[1, 1, new, length] bool: true where a row may not see a key.

        The last row stands at the last key.
        """
        own = torch.arange(length - new, length, device=device).unsqueeze(1)
        keys = torch.arange(length, device=device).unsqueeze(0)
        hidden = keys > own
        if self.sliding_window is not None:
            hidden |= keys <= own - self.sliding_window
        return hidden.view(1, 1, new, length)
