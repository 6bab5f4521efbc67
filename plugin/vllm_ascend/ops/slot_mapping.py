"""The cache slot of each new token: vLLM's Triton kernel, as tensor operators on the NPU."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_slot_mapping(
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc_ptr: Tensor,
    positions_ptr: Tensor,
    block_table_ptr: Tensor,
    block_table_stride: int,
    slot_mapping_ptr: Tensor,
    KV_CACHE_BLOCK_SIZE: int,  # noqa: N803
    TOTAL_CP_WORLD_SIZE: int,  # noqa: N803
    TOTAL_CP_RANK: int,  # noqa: N803
    CP_KV_CACHE_INTERLEAVE_SIZE: int,  # noqa: N803
    PAD_ID: int,  # noqa: N803
    BLOCK_SIZE: int,  # noqa: N803
) -> None:
    """Writes ``slot_mapping_ptr`` [max_num_tokens], int64: block number times block size plus
    offset for each of ``num_tokens`` tokens, PAD_ID behind them.

    The parameters have the kernel's names, by which vLLM passes them. ``query_start_loc_ptr`` is
    [requests + 1], ``positions_ptr`` [num_tokens], ``block_table_ptr`` [requests, blocks].

    Raises:
        NotImplementedError: for context parallelism.
    """
    if TOTAL_CP_WORLD_SIZE != 1:
        raise NotImplementedError(
            "slot mapping for context parallelism is not implemented on an NPU"
        )
    positions = positions_ptr[:num_tokens]
    tokens = torch.arange(num_tokens, dtype=query_start_loc_ptr.dtype, device=positions.device)
    requests = torch.searchsorted(query_start_loc_ptr[1:], tokens, right=True)
    blocks = block_table_ptr[requests, positions // KV_CACHE_BLOCK_SIZE].to(torch.int64)
    slot_mapping_ptr[:num_tokens] = blocks * KV_CACHE_BLOCK_SIZE + positions % KV_CACHE_BLOCK_SIZE
    slot_mapping_ptr[num_tokens:max_num_tokens] = PAD_ID
