"""Products with quantised weights through torch-npu, to which all formats come down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch_npu
from torch import Tensor, nn

from vllm_ascend.chips import chip
from vllm_ascend.quantization.registry import UnsupportedQuantization


def require(*functions: str, what: str) -> None:
    """Refuses what needs a function of torch-npu that the chip lacks.

    Raises:
        UnsupportedQuantization: one of them.
    """
    for function in functions:
        if not chip().has(function):
            raise UnsupportedQuantization(
                f"{what} needs {function}, which {chip().series} does not have; "
                "serve the checkpoint without quantisation, or one with another scheme."
            )


class Kept:
    """Tensors that are made of loaded ones, and are parameters of a layer from then on.

    What moves or counts a model's weights finds them there, and weights that are loaded again come
    to lie where the first did: vLLM copies a layer's parameters into the memory that they had.
    """

    def __init__(self) -> None:
        self._tensors: Mapping[str, Tensor | None] = {}
        self._names: dict[str, str] = {}

    def keep(self, name: str, tensor: Tensor | None) -> None:
        """Makes a tensor one of these, as an attribute of the same name."""
        self._tensors = {**self._tensors, name: tensor}
        self._names[name] = name

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_names", {}):
            return self._tensors[self._names[name]]
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def settle(self, layer: nn.Module, prefix: str, **names: str) -> None:
        """Makes the tensors parameters of a layer.

        Args:
            layer: whose.
            prefix: of their names there.
            names: those of tensors that are called otherwise there.
        """
        called = {name: names.get(name, prefix + name) for name in self._names}
        for name, own in called.items():
            tensor = self._tensors[name]
            held = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
            layer._parameters.pop(own, None)
            layer.register_parameter(own, held)
        self._tensors, self._names = layer._parameters, called


class Product(Kept):
    """A layer's product: x [..., in], float16 or bfloat16, and a bias [out] to [..., out]."""

    def install(self, layer: nn.Module, weight: str, *others: str) -> None:
        """Puts this in place of what was loaded: its weight under the old name, no others."""
        for name in (weight, *others):
            layer._parameters.pop(name, None)
        self.settle(layer, "product_", weight=weight)
        layer.product = self

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The product."""
        raise NotImplementedError


class DynamicProduct(Product):
    """int8 by int8, each row of the input scaled by its own range.

    Args:
        weight: [in, out], int8.
        scale: [out], float32.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        require("npu_dynamic_quant", what="A product of int8 with scales per token")
        self.keep("weight", weight)
        self.keep("scale", scale)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        codes, scales = torch_npu.npu_dynamic_quant(x.reshape(-1, x.shape[-1]))
        product = torch_npu.npu_quant_matmul(
            codes,
            self.weight,
            self.scale,
            pertoken_scale=scales,
            bias=bias,
            output_dtype=x.dtype,
        )
        return product.view(*x.shape[:-1], -1)


class StaticProduct(Product):
    """int8 by int8, all inputs scaled alike.

    Args:
        weight: [in, out], int8.
        scale: [out], float32: of the product, so the input's times the weight's.
        input_scale: [], float32.
        input_offset: [], a whole number that is added to the input's codes; None is zero.
        bias: [out], int32, in units of the product: takes the input's offset out again.
        dtype: of inputs and outputs.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        input_scale: Tensor,
        input_offset: Tensor | None,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        # The operator wants the factor in the input's dtype. What rounding it to that does to the
        # codes is taken out of the product again.
        factor = input_scale.reciprocal().to(dtype).view(1)
        scale = scale / (input_scale * factor.float())
        if dtype == torch.float16:
            scale = torch_npu.npu_trans_quant_param(scale, round_mode=1)
        self.keep("weight", weight)
        self.keep("scale", scale)
        self.keep("factor", factor)
        self.keep("offset", None if input_offset is None else input_offset.to(dtype).view(1))
        self.keep("bias", bias)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        codes = torch_npu.npu_quantize(
            x.reshape(-1, x.shape[-1]), self.factor, self.offset, torch.qint8, -1, False
        )
        product = torch_npu.npu_quant_matmul(
            codes, self.weight, self.scale, bias=self.bias, output_dtype=x.dtype
        )
        product = product.view(*x.shape[:-1], -1)
        return product if bias is None else product + bias


MX_BLOCK = 32
"""Numbers that share a power of two in MX formats."""


class MxProduct(Product):
    """float8 by float8, or float4 by float4, each block of inputs with a power of two of its own.

    Args:
        weight: [out, in], float8_e4m3fn (MXFP8), or [out, in / 2], uint8, of two numbers each, the
            first in the low half (MXFP4).
        exponents: [out, in / 32], uint8: the power of two plus 127.
    """

    def __init__(self, weight: Tensor, exponents: Tensor) -> None:
        super().__init__()
        self.keep("weight", weight.t())
        self.keep("scale", exponents.unflatten(1, (-1, 2)).transpose(0, 1))
        self.types: dict[str, int] = {}
        self.inputs: torch.dtype | int = torch.float8_e4m3fn
        if weight.dtype == torch.uint8:
            self.inputs = torch_npu.float4_e2m1fn_x2
            self.types = dict.fromkeys(("x1_dtype", "x2_dtype"), torch_npu.float4_e2m1fn_x2)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        codes, exponents = torch_npu.npu_dynamic_mx_quant(
            x.reshape(-1, x.shape[-1]), dst_type=self.inputs
        )
        product = torch_npu.npu_quant_matmul(
            codes,
            self.weight,
            self.scale,
            scale_dtype=torch_npu.float8_e8m0fnu,
            pertoken_scale=exponents,
            pertoken_scale_dtype=torch_npu.float8_e8m0fnu,
            output_dtype=x.dtype,
            group_sizes=[1, 1, MX_BLOCK],
            **self.types,
        )
        product = product.view(*x.shape[:-1], -1)
        return product if bias is None else product + bias


class WeightOnlyProduct(Product):
    """Whole inputs by weights of int8 or int4: x @ ((weight + offset) * scale).

    Args:
        codes: [in, out], whole numbers: int8's, or int4's if ``bits`` is 4.
        scale: [groups, out]; a group is a run of inputs, and one group is one scale a channel.
        offset: the same, or None.
        bits: 4 or 8.
        dtype: of inputs and outputs.

    Raises:
        UnsupportedQuantization: the chip has no such product.
    """

    def __init__(
        self, codes: Tensor, scale: Tensor, offset: Tensor | None, bits: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        if bits == 4:
            require("npu_convert_weight_to_int4pack", what="A product with weights of 4 bits")
            self.keep("weight", torch_npu.npu_convert_weight_to_int4pack(codes.to(torch.int32)))
        else:
            self.keep("weight", codes.to(torch.int8))
        self.keep("scale", scale.to(dtype).contiguous())
        self.keep("offset", None if offset is None else offset.to(dtype).contiguous())
        groups = scale.shape[0]
        if groups > 1 and not chip().grouped_weight_scales:
            raise UnsupportedQuantization(
                f"The weights have {groups} groups of scales, and {chip().series} multiplies by "
                "one scale a channel only; take a checkpoint that was quantised per channel."
            )
        self.group = codes.shape[0] // groups if groups > 1 else 0

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None and bias.dtype == torch.bfloat16:
            bias = bias.float()  # the operator adds no bfloat16 bias
        product = torch_npu.npu_weight_quant_batchmatmul(
            x.reshape(-1, x.shape[-1]),
            self.weight,
            self.scale,
            self.offset,
            bias=bias,
            antiquant_group_size=self.group,
        )
        return product.view(*x.shape[:-1], -1)
