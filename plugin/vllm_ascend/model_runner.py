"""The model runner: vLLM's first one, on an NPU."""

from __future__ import annotations

from typing import Any

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
