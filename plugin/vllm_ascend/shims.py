"""Every attribute of vLLM or torch that this plugin replaces, each a row with its reason.

A shim stands only where vLLM has no seam. A unit test checks that each target still exists and
that serving really reaches it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vllm.config.profiler import ProfilerConfig


@dataclass(frozen=True)
class Shim:
    """One replaced attribute.

    Attributes:
        module: the module or class path that holds it, as in ``torch.cuda``.
        name: the attribute's name.
        replacement: makes what stands there instead, when it is applied.
        reason: why vLLM cannot be told otherwise.
        removed_by: the change upstream that would make this row unnecessary.
    """

    module: str
    name: str
    replacement: Callable[[], Any] = field(repr=False)
    reason: str
    removed_by: str

    @property
    def target(self) -> str:
        return f"{self.module}.{self.name}"


def _no_warmup(worker: object, *, process_local_only: bool = False) -> None:
    """CANN's operators are compiled ahead of time: there is nothing to warm up."""


def _check_profiler(profiler_config: ProfilerConfig) -> None:
    """Takes the one profiler that an NPU has.

    Raises:
        ValueError: another was asked for.
    """
    if profiler_config.profiler not in (None, "torch"):
        raise ValueError(
            f"The profiler {profiler_config.profiler!r} is for GPUs. On an NPU take 'torch', which "
            "is torch_npu.profiler there."
        )


_STREAMS = "the model runner names torch.cuda's streams and events for its asynchronous copies"
_STREAMS_UPSTREAM = (
    "vLLM using torch.Stream, torch.Event and torch.accelerator throughout the model runner"
)

SHIMS: tuple[Shim, ...] = (
    Shim("torch.cuda", "Stream", lambda: torch.npu.Stream, _STREAMS, _STREAMS_UPSTREAM),
    Shim("torch.cuda", "Event", lambda: torch.npu.Event, _STREAMS, _STREAMS_UPSTREAM),
    Shim("torch.cuda", "stream", lambda: torch.npu.stream, _STREAMS, _STREAMS_UPSTREAM),
    Shim(
        "torch.cuda",
        "current_stream",
        lambda: torch.npu.current_stream,
        _STREAMS,
        _STREAMS_UPSTREAM,
    ),
    Shim(
        "vllm.v1.worker.gpu_worker",
        "kernel_warmup",
        lambda: _no_warmup,
        "it warms up CUDA and Triton kernels, none of which an NPU runs, and imports a model "
        "that needs torchvision",
        "a platform hook around kernel_warmup, as register_triton_kernel_overrides is one",
    ),
    Shim(
        "vllm.v1.worker.gpu_worker",
        "validate_worker_profiler_config",
        lambda: _check_profiler,
        "it has a fixed table of device types and refuses every profiler on another one",
        "a platform hook that names its profilers",
    ),
)


def _holder(shim: Shim) -> Any:
    return importlib.import_module(shim.module)


_originals: dict[str, Any] = {}


def apply_all() -> None:
    """Puts every shim in place, in a process that serves on an NPU. Applying again changes nothing.

    Raises:
        AttributeError: a target is gone, so this version of vLLM or torch does not fit.
    """
    for shim in SHIMS:
        if shim.target in _originals:
            continue
        holder = _holder(shim)
        _originals[shim.target] = getattr(holder, shim.name)
        setattr(holder, shim.name, shim.replacement())


def remove_all() -> None:
    """Puts the originals back; for tests."""
    for shim in SHIMS:
        if shim.target in _originals:
            setattr(_holder(shim), shim.name, _originals.pop(shim.target))
