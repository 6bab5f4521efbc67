"""Checks of quantised checkpoints before anything is loaded: which tensors belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from vllm.transformers_utils.config import get_safetensors_params_metadata

from vllm_ascend.quantization.registry import UnsupportedQuantization

Companions = Callable[[str, str], tuple[str, ...]]
"""A tensor's whole name and its type in the file to what has to lie beside it."""


def require_companions(model: str, revision: str | None, companions: Companions) -> None:
    """Requires the scales of each quantised weight, which vLLM would leave uninitialised.

    Raises:
        UnsupportedQuantization: one is missing; names checkpoint, tensor and the nearest name.
    """
    tensors: Mapping[str, Any] = get_safetensors_params_metadata(model, revision=revision)
    for name, description in tensors.items():  # the file's own metadata is among them
        for companion in companions(name, str(description.get("dtype"))):
            wanted = f"{name.rpartition('.')[0]}.{companion}"
            if wanted not in tensors:
                close = get_close_matches(wanted, set(tensors) - {name}, 1) or ["none like it"]
                raise UnsupportedQuantization(
                    f"{model} has the quantised weight {name}, and not {wanted}, without which it "
                    f"means nothing; the nearest name is {close[0]}. The checkpoint is incomplete: "
                    "quantise or download it again."
                )
