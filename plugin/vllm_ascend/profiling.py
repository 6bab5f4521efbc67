"""Profiling by torch_npu.profiler, behind vLLM's own start_profile and stop_profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch_npu
from vllm.profiler.wrapper import WorkerProfiler

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vllm.config.profiler import ProfilerConfig


class AscendProfiler(WorkerProfiler):
    """Writes what host and NPU did into ``torch_profiler_dir``, analysed, once profiling stops."""

    def __init__(self, profiler_config: ProfilerConfig) -> None:
        super().__init__(profiler_config)
        self._config = profiler_config
        self._name = "worker"
        self._profile: Any = None

    def set_output_name(self, worker_name: str) -> None:
        self._name = worker_name

    def annotate_context_manager(self, name: str) -> AbstractContextManager[object]:
        return torch.profiler.record_function(name)

    def _start(self) -> None:
        config, profiler = self._config, torch_npu.profiler
        self._profile = profiler.profile(
            activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU],
            on_trace_ready=profiler.tensorboard_trace_handler(
                config.torch_profiler_dir, worker_name=self._name
            ),
            record_shapes=config.torch_profiler_record_shapes,
            profile_memory=config.torch_profiler_with_memory,
            with_stack=config.torch_profiler_with_stack,
            with_flops=config.torch_profiler_with_flops,
        )
        self._profile.start()

    def _stop(self) -> None:
        self._profile.stop()
