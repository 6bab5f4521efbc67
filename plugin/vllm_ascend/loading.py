"""Checkpoints: vLLM's own loader, with errors that name the tensor, and none that is left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.config.load import LoadConfig

FORMAT = "ascend"
"""The load format that stands for vLLM's ``auto``."""


class WrongCheckpoint(ValueError):
    """A checkpoint that is not the model's; the message names the file or tensor."""


class CheckedLoader(DefaultModelLoader):
    """vLLM's loader of checkpoints, which says what is wrong with one.

    vLLM takes a layer whose weight is in no file as it was allocated, and stops at a weight of
    another shape with an assertion that names nothing.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        load_config = copy.copy(load_config)
        load_config.load_format = "auto"
        super().__init__(load_config)
        self._reading = ""

    def get_all_weights(
        self, model_config: ModelConfig, model: torch.nn.Module
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in super().get_all_weights(model_config, model):
            self._reading = f"{name} of shape {tuple(tensor.shape)}"
            yield name, tensor

    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        """Loads all weights.

        Raises:
            WrongCheckpoint: a file cannot be read, a tensor does not fit or is not there.
        """
        layers = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, LinearBase)
            and isinstance(getattr(module, "weight", None), torch.nn.Parameter)
            and not module.weight.is_meta
            and module.weight.dtype in (torch.float16, torch.bfloat16, torch.float32)
        }
        for layer in layers.values():
            layer.weight.data.fill_(torch.nan)
        try:
            super().load_weights(model, model_config)
        except torch.OutOfMemoryError:
            raise
        except SafetensorError as error:
            raise _wrong(model_config, f"{_unreadable(model_config.model)}: {error}") from error
        except (AssertionError, IndexError, KeyError, RuntimeError) as error:
            if not self._reading:
                raise
            told = f"the tensor {self._reading} does not fit: {str(error) or 'another shape'}"
            raise _wrong(model_config, told) from error
        unset = [torch.isnan(layer.weight).any() for layer in layers.values()]
        found = torch.stack(unset).tolist() if unset else []
        names = [name for name, lacks in zip(layers, found, strict=True) if lacks]
        if names:
            told = f"no file has the whole of {', '.join(names[:4])}"
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise _wrong(model_config, f"{told}{more}, or it holds NaN")


def _wrong(model_config: ModelConfig, what: str) -> WrongCheckpoint:
    return WrongCheckpoint(
        f"The checkpoint {model_config.model} cannot be loaded: {what}.\n"
        "Usually a download was cut short, or config.json is another model's "
        f"({model_config.architecture}).\n"
        "Compare the files with their published sizes and hashes, and fetch them again."
    )


def _unreadable(folder: str) -> str:
    """The files of a folder that are no safetensors."""
    broken = []
    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError):
            broken.append(file.name)
    return ", ".join(broken) or "a file"
