"""The products behind vLLM's own quantisation methods: compressed-tensors, AWQ and GPTQ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.kernels.linear import Int8ScaledMMLinearKernel, MPLinearKernel
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    unpack_quantized_values_into_int32,
)
from vllm.model_executor.layers.quantization.utils.w8a8_utils import convert_to_channelwise
from vllm.model_executor.parameter import permute_param_layout_
from vllm.scalar_type import scalar_types

from vllm_ascend.chips import chip
from vllm_ascend.quantization.products import (
    DynamicProduct,
    Product,
    StaticProduct,
    WeightOnlyProduct,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from vllm.model_executor.kernels.linear import (
        Int8ScaledMMLinearLayerConfig,
        MPLinearLayerConfig,
    )

DTYPES = (torch.float16, torch.bfloat16)
"""What inputs of quantised products may be in."""

GROUP_STEP = 32
"""Groups of weights' scales are multiples of this (CANN's document of WeightQuantBatchMatmul)."""


class AscendInt8LinearKernel(Int8ScaledMMLinearKernel):
    """int8 weights and inputs, with scales per tensor (static) or token (dynamic)."""

    def __init__(self, c: Int8ScaledMMLinearLayerConfig, layer_param_names: Sequence[str]) -> None:
        super().__init__(c, layer_param_names)
        self.dtype = torch.get_default_dtype()  # while layers are made, it is the model's

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        return True, None

    @classmethod
    def can_implement(cls, c: Int8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        if c.is_static_input_scheme:
            return True, None
        if not chip().has("npu_dynamic_quant"):
            return False, f"{chip().series} has no npu_dynamic_quant, for scales per token"
        return c.input_symmetric, "scales per token are symmetric on an NPU"

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        weight, scale, input_scale, input_offset, _ = self._get_layer_params(layer)
        if not self.config.is_channelwise:
            scale = convert_to_channelwise(scale, layer.logical_widths)
        codes, scale = weight.data.t().contiguous(), scale.data.flatten().float()
        product: Product
        if not self.config.is_static_input_scheme:
            product = DynamicProduct(codes, scale)
        else:
            assert input_scale is not None, "a static scheme comes with its scale"
            offset = None if input_offset is None else input_offset.data.int()
            bias = None if offset is None else -codes.sum(0, dtype=torch.int32) * offset
            product = StaticProduct(
                codes, scale * input_scale.data, input_scale.data, offset, bias, self.dtype
            )
        product.install(layer, *self.layer_param_names)

    def apply_weights(
        self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return layer.product(x, bias)


_ZERO = {
    scalar_types.uint4: (4, 8),
    scalar_types.uint4b8: (4, 8),
    scalar_types.uint8: (8, 128),
    scalar_types.uint8b128: (8, 128),
}
"""Types of weights: bits, and the stored number that becomes int4's or int8's zero."""


class AscendWeightOnlyLinearKernel(MPLinearKernel):
    """int4 or int8 weights by float16 or bfloat16 inputs."""

    @classmethod
    def get_min_capability(cls) -> int:
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
        length, width = c.partition_weight_shape
        if c.weight_type not in _ZERO or c.zero_points == c.weight_type.has_bias():
            return False, f"weights of {c.weight_type} (zero points: {c.zero_points})"
        bits, _ = _ZERO[c.weight_type]
        if c.act_type not in DTYPES or c.act_type not in chip().dtypes:
            return False, f"inputs in {c.act_type} on {chip().series}"
        if bits == 4 and not chip().has("npu_convert_weight_to_int4pack"):
            return False, f"{chip().series} has no products with int4"
        if bits == 4 and width % 8:
            return False, f"{width} outputs of int4 weights; a multiple of 8 is needed"
        grouped = c.group_size not in (-1, length)
        if grouped and not chip().grouped_weight_scales:
            return False, f"{chip().series} multiplies by one scale a channel only"
        if grouped and (c.group_size % GROUP_STEP or length % c.group_size):
            return False, (
                f"groups of {c.group_size} among {length} inputs; they must be multiples of "
                f"{GROUP_STEP} that divide the inputs"
            )
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        kind = self.config.weight_type
        bits, zero = _ZERO[kind]

        def unpacked(name: str | None, **layout: int) -> Tensor:
            """[in, out] numbers of a parameter; bits are taken apart on the host."""
            parameter = permute_param_layout_(getattr(layer, str(name)), 0, 1, **layout)
            packed: Any = parameter.data.cpu()
            return unpack_quantized_values_into_int32(packed, kind, layout["packed_dim"])

        codes = unpacked(self.w_q_name, packed_dim=0) - zero
        scale = permute_param_layout_(getattr(layer, self.w_s_name), 0, 1).data
        offset = None
        if self.config.zero_points:
            offset = (zero - unpacked(self.w_zp_name, packed_dim=1)).to(scale.device)
        product = WeightOnlyProduct(
            codes.contiguous().to(scale.device), scale, offset, bits, self.config.act_type
        )
        product.install(layer, self.w_q_name, self.w_s_name, str(self.w_zp_name))

    def apply_weights(
        self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return layer.product(x, bias)
