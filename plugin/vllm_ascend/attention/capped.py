"""Paged attention with scores that are capped by tanh before the softmax (Gemma 2, Grok 1), out of
parts: CANN's attention operators have no such step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vllm_ascend.attention.backend import AscendMetadata

SCORES = 2**26
"""How many scores, or gathered numbers of keys, are held at once; more goes piece by piece."""


@dataclass(frozen=True)
class CappedAttention:
    """One layer's rule: scores are ``cap * tanh(scale * q k / cap)``, of a window of last keys."""

    scale: float
    cap: float
    sliding_window: int | None = None

    def __call__(
        self,
        query: torch.Tensor,
        caches: tuple[torch.Tensor, torch.Tensor],
        metadata: AscendMetadata,
        output: torch.Tensor,
    ) -> None:
        """Fills ``output`` from query [tokens, heads, head_size]; caches are [blocks, block_size,
        kv_heads, head_size]. What the host knows decides on shapes alone; where each row stands
        comes from the device's lengths, so that nothing waits for it.
        """
        starts = [0, *metadata.query_ends[:-1]]
        if metadata.query_ends[-1] == len(starts):  # every request has one row
            self._together(query, caches, metadata, output)
            return
        for i, (start, end) in enumerate(zip(starts, metadata.query_ends, strict=True)):
            self._rows(query[start:end].unsqueeze(0), caches, metadata, i, output[start:end])

    def _together(
        self,
        query: torch.Tensor,
        caches: tuple[torch.Tensor, torch.Tensor],
        metadata: AscendMetadata,
        output: torch.Tensor,
    ) -> None:
        """One row of each request, as many requests at once as the gathered keys allow."""
        requests = len(metadata.seq_lens)
        numbers = caches[0][0].numel() * self._pages(metadata.seq_lens, caches[0])
        at_once = max(1, SCORES // numbers)
        for first in range(0, requests, at_once):
            some = slice(first, min(first + at_once, requests))
            keys, values = self._gathered(caches, metadata, some)
            attended = self._attend(
                query[some].unsqueeze(1), keys, values, metadata.key_counts[some], 0, 1
            )
            output[some] = attended[:, 0]

    def _rows(
        self,
        query: torch.Tensor,
        caches: tuple[torch.Tensor, torch.Tensor],
        metadata: AscendMetadata,
        request: int,
        output: torch.Tensor,
    ) -> None:
        """All rows of one request, as many at once as their scores allow."""
        one = slice(request, request + 1)
        keys, values = self._gathered(caches, metadata, one)
        rows, heads = query.shape[1:3]
        at_once = max(1, SCORES // (heads * keys.shape[1]))
        for first in range(0, rows, at_once):
            last = min(first + at_once, rows)
            output[first:last] = self._attend(
                query[:, first:last], keys, values, metadata.key_counts[one], first, rows
            )[0]

    @staticmethod
    def _pages(lengths: list[int], cache: torch.Tensor) -> int:
        return -(-max(lengths) // cache.shape[1])

    def _gathered(
        self,
        caches: tuple[torch.Tensor, torch.Tensor],
        metadata: AscendMetadata,
        requests: slice,
    ) -> list[torch.Tensor]:
        """Keys and values of some requests, each [requests, length, kv_heads, head_size]."""
        pages = self._pages(metadata.seq_lens[requests], caches[0])
        table = metadata.block_table[requests, :pages]
        return [cache[table].flatten(1, 2) for cache in caches]

    def _attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        counts: torch.Tensor,
        first: int,
        rows: int,
    ) -> torch.Tensor:
        """query [requests, some rows, heads, size], the ``first`` and following of ``rows``, the
        last of which stands at the last key; counts [requests] are of keys. Shaped as query.
        """
        requests, some, _, size = query.shape
        kv_heads = keys.shape[2]
        grouped = (query * self.scale).view(requests, some, kv_heads, -1, size)
        # [requests, kv_heads, groups * rows, size]: a key head is read once for all its queries
        grouped = grouped.permute(0, 2, 3, 1, 4).reshape(requests, kv_heads, -1, size)
        scores = torch.matmul(grouped, keys.permute(0, 2, 3, 1)).float()
        scores = torch.tanh(scores / self.cap) * self.cap
        hidden = self._hidden(counts, keys.shape[1], first, some, rows)
        scores = scores.view(requests, kv_heads, -1, some, keys.shape[1])
        scores = scores.masked_fill(hidden[:, None, None], float("-inf"))
        weights = torch.softmax(scores, dim=-1).to(values.dtype).flatten(2, 3)
        attended = torch.matmul(weights, values.transpose(1, 2))
        attended = attended.view(requests, kv_heads, -1, some, size)
        return attended.permute(0, 3, 1, 2, 4).reshape(query.shape)

    def _hidden(
        self, counts: torch.Tensor, length: int, first: int, some: int, rows: int
    ) -> torch.Tensor:
        """[requests, some, length] bool: true where a row may not see a key."""
        row = torch.arange(first - rows, first - rows + some, device=counts.device)
        own = (counts.unsqueeze(1) + row).unsqueeze(2)
        keys = torch.arange(length, device=counts.device)
        hidden = keys > own
        if self.sliding_window is not None:
            hidden |= keys <= own - self.sliding_window
        return hidden
