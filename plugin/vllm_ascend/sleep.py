"""Sleep mode: an idle engine gives the memory of its weights and KV cache back to the NPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vllm.device_allocator.sleep_mode_backend import SleepModeBackend

if TYPE_CHECKING:
    from vllm_ascend.worker import NPUWorker

NAME = "ascend"
"""The name by which vLLM's factory knows this backend."""

WEIGHTS, CACHE = "weights", "kv_cache"
"""vLLM's tags of what can be woken apart."""


class AscendSleepBackend(SleepModeBackend):
    """Shrinks the storages behind weights and caches to nothing, and grows them again.

    Tensors keep their storages, so nothing that refers to one notices; addresses change, which
    matters only to captured graphs. No allocator of its own is needed.

    Attributes:
        worker: whose model and caches sleep; the worker sets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.worker: NPUWorker | None = None
        self._asleep: dict[str, list[tuple[torch.UntypedStorage, int, Tensor | None]]] = {}

    def suspend(self, level: int = 1) -> None:
        """Frees weights and caches; level 1 keeps the weights in the host's memory.

        Raises:
            ValueError: for a level that is neither 1 nor 2.
        """
        if level not in (1, 2):
            raise ValueError(f"Sleep level {level} is not known; take 1 (keep weights) or 2.")
        self._free(WEIGHTS, keep=level == 1)
        self._free(CACHE, keep=False)

    def discard(self, tags: tuple[str, ...]) -> None:
        """Frees what the tags name without keeping its contents."""
        for tag in tags:
            self._free(tag, keep=False)

    def resume(self, tags: list[str] | None = None) -> None:
        """Takes memory again for all, or for what the tags name, and puts kept contents back.

        Caches come back as zeros, and weights that were not kept as whatever was in memory.
        """
        self._state = "RESUMING"
        for tag in [tag for tag in self._asleep if tags is None or tag in tags]:
            for storage, size, kept in self._asleep.pop(tag):
                storage.resize_(size)
                if kept is not None:
                    _bytes(storage).copy_(kept)
                elif tag == CACHE:
                    _bytes(storage).zero_()
        self._state = "SUSPENDED" if self._asleep else "RUNNING"

    @classmethod
    def preserves_communicators(cls) -> bool:
        return True

    def _free(self, tag: str, *, keep: bool) -> None:
        if tag in self._asleep:
            return
        torch.npu.synchronize()
        freed = self._asleep[tag] = []
        for storage in _storages(self._tensors(tag)):
            kept = _bytes(storage).cpu() if keep else None
            freed.append((storage, storage.nbytes(), kept))
            storage.resize_(0)
        torch.npu.empty_cache()
        self._state = "SUSPENDED"

    def _tensors(self, tag: str) -> Iterator[Tensor]:
        """The tensors on the NPU that a tag names.

        Raises:
            ValueError: the tag is unknown.
        """
        assert self.worker is not None, "the worker that made this backend sets it"
        if tag == CACHE:
            yield from self.worker.model_runner.kv_caches
        elif tag == WEIGHTS:
            for model in (self.worker.model_runner.get_model(), self.worker.get_draft_model()):
                if model is not None:
                    yield from model.parameters()
                    yield from model.buffers()
        else:
            raise ValueError(f"Nothing here has the tag {tag!r}; there are {WEIGHTS} and {CACHE}.")


def _storages(tensors: Iterable[Tensor]) -> list[torch.UntypedStorage]:
    """Each storage on the NPU once, however many tensors share it."""
    found = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if tensor.device.type == "npu" and storage.nbytes():
            found[storage.data_ptr()] = storage
    return list(found.values())


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    """The whole of a storage as [bytes] uint8."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
