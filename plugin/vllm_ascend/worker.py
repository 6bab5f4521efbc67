"""The worker: vLLM's own, on an NPU."""

from __future__ import annotations

import atexit
import gc
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from vllm.device_allocator.sleep_mode_backend import SleepModeBackend
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.platforms import current_platform
from vllm.utils.mem_utils import MemorySnapshot, format_gib
from vllm.utils.torch_utils import set_random_seed
from vllm.v1.worker.gpu_worker import Worker, init_worker_distributed_environment
from vllm.v1.worker.utils import request_memory

from vllm_ascend import shims
from vllm_ascend.profiling import AscendProfiler
from vllm_ascend.sleep import AscendSleepBackend


class NotEnoughMemory(ValueError):
    """The NPU has no room for a KV cache; the message says who has taken it."""


class NPUWorker(Worker):
    """One process on one NPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        shims.apply_all()
        super().__init__(*args, **kwargs)
        if self.profiler_config.profiler is not None:
            self.profiler = AscendProfiler(self.profiler_config)

    def init_device(self) -> None:
        """Takes the device, joins the process group, measures free memory and makes the runner.

        Raises:
            RuntimeError: there is no NPU for this rank.
        """
        # torch-npu closes its process groups when the interpreter leaves; an engine that lives in
        # this process would close them after it, and fail. Handlers run last in, first out.
        atexit.register(cleanup_dist_env_and_memory)
        index = current_platform.logical_device_id_to_visible_device_id(self.local_rank)
        count = torch.npu.device_count()
        if index >= count:
            raise RuntimeError(
                f"Worker {self.rank} needs NPU {index}, and {count} are visible. "
                f"Check {current_platform.device_control_env_var} and the parallel sizes."
            )
        self.device = torch.device("npu", index)
        torch.npu.set_device(self.device)
        current_platform.check_if_supports_dtype(self.model_config.dtype)
        init_worker_distributed_environment(
            self.vllm_config,
            self.rank,
            self.distributed_init_method,
            self.local_rank,
            current_platform.dist_backend,
        )
        set_random_seed(self.model_config.seed)
        gc.collect()
        torch.npu.empty_cache()
        self.init_snapshot = MemorySnapshot(device=self.device)
        self.requested_memory = request_memory(self.init_snapshot, self.cache_config)
        self._init_workspace_and_model_runner()

    def determine_available_memory(self) -> int:
        """Bytes that the KV cache may take.

        Raises:
            NotEnoughMemory: weights and a step's activations leave none.
        """
        available = super().determine_available_memory()
        if available > 0:
            return available
        asked = self.cache_config.gpu_memory_utilization
        weights = int(self.model_runner.model_memory_usage)
        rest = self.requested_memory - available - weights
        total = self.init_snapshot.total_memory
        raise NotEnoughMemory(
            f"No memory is left for the KV cache. vLLM may use {format_gib(self.requested_memory)} "
            f"of the NPU's {format_gib(total)} GiB (gpu_memory_utilization={asked:g}); the weights "
            f"take {format_gib(weights)} GiB, a step's activations and other uses "
            f"{format_gib(rest)} GiB.\n"
            "Usually the model is too large for one NPU, or other processes use it: npu-smi info.\n"
            "Raise --gpu-memory-utilization, lower --max-num-batched-tokens, or take a quantised "
            "checkpoint."
        )

    def _make_model_runner(self):
        from vllm_ascend.model_runner import NPUModelRunner

        return NPUModelRunner(self.vllm_config, self.device)

    def _maybe_get_memory_pool_context(self, tag: str) -> AbstractContextManager:
        # Sleep mode frees the storages themselves, so that no pool has to be marked.
        return nullcontext()

    @property
    def sleep_mode_backend(self) -> SleepModeBackend:
        """What frees and restores this worker's memory, as the configuration names it."""
        backend = super().sleep_mode_backend
        if isinstance(backend, AscendSleepBackend):
            backend.worker = self
        return backend
