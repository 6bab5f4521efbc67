"""Checks of quantised checkpoints before anything is loaded: which tensors belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from vllm.transformers_utils.config import get_safetensors_params_metadata

from vllm_ascend.quantization.registry import UnsupportedQuantization

DESCRIPTION = "quant_model_description.json"
"""The file beside ModelSlim's weights that names each tensor's scheme."""

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


GROUP = 256
"""Inputs of a group of W4A8_DYNAMIC where the description gives no ``group_size``."""


def group_size(description: Mapping[str, Any], length: int) -> int:
    """How many of a layer's inputs share a scale in ModelSlim's W4A8_DYNAMIC.

    Raises:
        UnsupportedQuantization: weights lie two to a byte, or groups do not divide the inputs.
    """
    if "version" in description:
        raise UnsupportedQuantization(
            f"{DESCRIPTION} has version {description['version']!r}: its W4A8_DYNAMIC weights lie "
            "two to a byte, which is not implemented on an NPU. Quantise them with W8A8_DYNAMIC."
        )
    group = int(description.get("group_size", GROUP))
    if length % group:
        raise UnsupportedQuantization(
            f"{DESCRIPTION} has group_size {group}, which does not divide the {length} inputs of "
            "a layer."
        )
    return group
