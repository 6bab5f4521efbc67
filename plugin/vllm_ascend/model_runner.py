"""The model runner: vLLM's first one, on an NPU."""

from __future__ import annotations

from typing import Any

import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.kv_cache_interface import AttentionSpec
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

TAKEN_BACK = 4
"""By how much vLLM sets a request's generator back after a draw that it discards: what a draw takes
of a generator of CUDA."""


class NPUModelRunner(GPUModelRunner):
    """vLLM's model runner with torch.cuda's streams and events being the NPU's (see shims)."""

    def _sample(self, logits: Any, spec_decode_metadata: Any) -> Any:
        """Samples, and leaves generators so that discarded draws can be taken back.

        A request of which only a part of the prompt was read draws a token, too, and vLLM takes
        that back. A draw takes more of a generator of an NPU than of CUDA's, so that the same
        seed would give other tokens where a prompt is read in several steps.
        """
        discarded = self.discard_request_mask.np
        drawn = {
            generator: generator.get_offset()
            for number, generator in self.input_batch.generators.items()
            if number < self.input_batch.num_reqs and discarded[number]
        }
        output = super()._sample(logits, spec_decode_metadata)
        for generator, offset in drawn.items():
            generator.set_offset(offset + TAKEN_BACK)
        return output

    def _init_kv_zero_meta(self) -> None:
        """Finds the blocks of attention that other layers' states may have been in."""
        layers = self.compilation_config.static_forward_context
        caches = {
            cache.data_ptr(): cache.permute(0, 2, 1, 3)
            for group in self._kv_cache_spec_attn_group_iterator()
            if isinstance(group.kv_cache_spec, AttentionSpec)
            for cache in (layers[name].kv_cache for name in group.layer_names)
        }
        blocks = self.kv_cache_config.num_blocks
        self._attention_blocks = [cache.view(blocks, -1) for cache in caches.values()]

    def _zero_block_ids(self, block_ids: list[int]) -> None:
        """Zeroes blocks that attention is given, by number."""
        if not block_ids:
            return
        rows = async_tensor_h2d(block_ids, device=self.device, dtype=torch.int64)
        for blocks in self._attention_blocks:
            blocks.index_fill_(0, rows, 0)
