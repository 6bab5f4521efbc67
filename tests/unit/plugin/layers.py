"""Quantised linear layers as vLLM makes and loads them, from tensors of the checkpoints' recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.layers.quantization import get_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.utils.torch_utils import set_default_torch_dtype

from matrix.checkpoints import _quantise
from matrix.schema import Quantisation

LENGTH, WIDTH = 128, 64
PREFIX = "model.layers.0.mlp.down_proj"
RANGE = (-3.0, 4.0)
"""What inputs of a static scheme lie in."""


@contextlib.contextmanager
def one_card() -> Iterator[None]:
    """A tensor parallel group of one, without starting torch.distributed."""
    with contextlib.ExitStack() as stack:
        for module in ("vllm.model_executor.parameter", "vllm.model_executor.layers.linear"):
            for name, value in (("rank", 0), ("world_size", 1)):
                target = f"{module}.get_tensor_model_parallel_{name}"
                stack.enter_context(patch(target, return_value=value))
        yield


def config_of(how: Quantisation, parts: dict[str, torch.Tensor]) -> QuantizationConfig:
    """What vLLM reads of a checkpoint of this format, whose only layer is PREFIX."""
    if how.format == "modelslim":
        described: dict[str, Any] = {f"{PREFIX}.{part}": how.scheme for part in parts}
        if how.group_size:
            described["group_size"] = how.group_size
        config = get_quantization_config("ascend").from_config(described)
        config.packed_scales = "deq_scale" in parts and parts["deq_scale"].dtype == torch.int64
        return config
    described = _quantise._described(how)
    config = get_quantization_config(described["quant_method"]).from_config(described)
    config.packed_modules_mapping = {}
    return config


def linear(
    how: Quantisation, dtype: torch.dtype, changes: dict[str, torch.Tensor] | None = None
) -> tuple[ReplicatedLinear, torch.Tensor]:
    """A layer on the NPU, and what its weights stand for [WIDTH, LENGTH], in float32."""
    weight = torch.randn(WIDTH, LENGTH)
    parts, meant = _quantise._quantise(weight, how, RANGE if how.scheme == "W8A8" else None)
    parts |= changes or {}
    with one_card(), torch.device("npu"), set_default_torch_dtype(dtype):
        layer = ReplicatedLinear(
            LENGTH,
            WIDTH,
            bias=False,
            params_dtype=dtype,
            quant_config=config_of(how, parts),
            prefix=PREFIX,
            return_bias=False,
        )
        for name, parameter in layer.named_parameters():
            parameter.weight_loader(parameter, parts[name].npu())
        layer.quant_method.process_weights_after_loading(layer)
    return layer, meant


def pair(how: Quantisation, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer gave, and what it means, both in units of the greatest number."""
    layer, meant = linear(how, dtype)
    x = torch.randn(5, LENGTH).clamp(*RANGE).to(dtype)
    given, expected = layer(x.npu()).float().cpu(), x.float() @ meant.t()
    return given / expected.abs().max(), expected / expected.abs().max()
