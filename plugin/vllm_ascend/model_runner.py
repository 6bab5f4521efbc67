"""The model runner: vLLM's first one, on an NPU."""

from __future__ import annotations

from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class NPUModelRunner(GPUModelRunner):
    """vLLM's model runner with torch.cuda's streams and events being the NPU's (see shims)."""
