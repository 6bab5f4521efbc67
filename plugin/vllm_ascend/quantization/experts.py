"""Quantised experts of ModelSlim's checkpoints: by int8 rows, or by whole ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch_npu
from torch import Tensor
from vllm.model_executor.layers.fused_moe import FusedMoeWeightScaleSupported
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
from vllm.model_executor.utils import set_weight_attrs

from vllm_ascend.ops.experts import COUNTS, ONE_OUTPUT, ROWS, through_experts
from vllm_ascend.quantization.checkpoints import group_size
from vllm_ascend.quantization.products import require
from vllm_ascend.quantization.registry import (
    EXPERTS,
    UnsupportedQuantization,
    register_scheme,
)


class ModelSlimExperts(FusedMoEMethodBase):
    """Experts of codes [experts, out, in]; a scheme says what lies beside them, and multiplies."""

    scheme: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("npu_grouped_matmul",)
    """Functions of torch-npu without which there is no such product."""

    def __init__(self, config: Any, moe: FusedMoEConfig) -> None:
        super().__init__(moe)
        self.config = config
        require(*self.needs, what=f"A mixture of experts of {self.scheme}")

    def create_weights(
        self,
        layer: torch.nn.Module,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        def add(name: str, *shape: int, dtype: torch.dtype, **attributes: object) -> None:
            data = torch.zeros(num_experts, *shape, dtype=dtype)
            layer.register_parameter(name, torch.nn.Parameter(data, requires_grad=False))
            set_weight_attrs(getattr(layer, name), {**extra_weight_attrs, **attributes})

        self.dtype = params_dtype
        inner = intermediate_size_per_partition
        for name, width, length in (("w13", 2 * inner, hidden_size), ("w2", hidden_size, inner)):
            add(f"{name}_weight", width, length, dtype=torch.int8)
            self.add_scales(add, f"{name}_weight", width, length)

    def add_scales(self, add: Callable[..., None], weight: str, width: int, length: int) -> None:
        """Adds what lies beside the weights: a scale and an offset a channel."""
        by_channel = {"quant_method": FusedMoeWeightScaleSupported.CHANNEL.value}
        for part in ("scale", "offset"):
            add(f"{weight}_{part}", width, 1, dtype=torch.float32, **by_channel)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        for name in ("w13", "w2"):
            self.process(layer, f"{name}_weight")

    def process(self, layer: torch.nn.Module, weight: str) -> None:
        """Makes of what was loaded what the product takes: codes [experts, in, out]."""
        raise NotImplementedError

    def products(self, layer: torch.nn.Module, name: str, rows: Tensor, counts: Tensor) -> Tensor:
        """Each expert's rows times its weights."""
        raise NotImplementedError

    def get_fused_moe_quant_config(self, layer: torch.nn.Module) -> None:
        """None: nothing of vLLM's own kernels runs."""

    def apply(
        self,
        layer: torch.nn.Module,
        x: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        shared_experts: object,
        shared_experts_input: Tensor | None,
    ) -> Tensor:
        return through_experts(layer, x, topk_weights, topk_ids, self.products)

    def symmetric(self, layer: torch.nn.Module, weight: str) -> None:
        """Takes the weights' offsets away, which have to be zero.

        Raises:
            UnsupportedQuantization: they are not.
        """
        if getattr(layer, f"{weight}_offset").any():
            raise UnsupportedQuantization(
                f"Experts of {self.scheme} have {weight}_offset other than zero; on an NPU "
                "their weights are symmetric. Quantise with symmetric weights."
            )
        delattr(layer, f"{weight}_offset")


def replace(layer: torch.nn.Module, name: str, tensor: Tensor) -> None:
    """Puts another tensor in a parameter's place."""
    delattr(layer, name)
    layer.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))


@register_scheme("W8A8_DYNAMIC", EXPERTS)
class W8A8DynamicExperts(ModelSlimExperts):
    """int8 weights with a scale a channel, int8 rows with a scale a row."""

    scheme = "W8A8_DYNAMIC"
    needs = ("npu_dynamic_quant", "npu_grouped_matmul")

    def process(self, layer: torch.nn.Module, weight: str) -> None:
        self.symmetric(layer, weight)
        codes, scale = getattr(layer, weight), getattr(layer, f"{weight}_scale")
        codes.data = codes.data.transpose(1, 2).contiguous()
        # The grouped product wants bfloat16 scales for bfloat16 results, and float32 for float16.
        wanted = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32
        scale.data = scale.data.squeeze(-1).to(wanted)

    def products(self, layer: torch.nn.Module, name: str, rows: Tensor, counts: Tensor) -> Tensor:
        codes, scales = torch_npu.npu_dynamic_quant(rows)
        return torch_npu.npu_grouped_matmul(
            [codes],
            [getattr(layer, f"{name}_weight")],
            scale=[getattr(layer, f"{name}_weight_scale")],
            per_token_scale=[scales],
            group_list=counts,
            split_item=ONE_OUTPUT,
            group_type=ROWS,
            group_list_type=COUNTS,
            output_dtype=rows.dtype,
        )[0]


@register_scheme("W8A16", EXPERTS)
class W8A16Experts(ModelSlimExperts):
    """int8 weights with a scale and an offset a channel, by whole rows."""

    scheme = "W8A16"

    def process(self, layer: torch.nn.Module, weight: str) -> None:
        codes = getattr(layer, weight)
        codes.data = codes.data.transpose(1, 2).contiguous()
        for part in ("scale", "offset"):
            beside = getattr(layer, f"{weight}_{part}")
            beside.data = beside.data.squeeze(-1).to(self.dtype)

    def products(self, layer: torch.nn.Module, name: str, rows: Tensor, counts: Tensor) -> Tensor:
        return torch_npu.npu_grouped_matmul(
            [rows],
            [getattr(layer, f"{name}_weight")],
            antiquant_scale=[getattr(layer, f"{name}_weight_scale")],
            antiquant_offset=[getattr(layer, f"{name}_weight_offset")],
            group_list=counts,
            split_item=ONE_OUTPUT,
            group_type=ROWS,
            group_list_type=COUNTS,
        )[0]


@register_scheme("W4A8_DYNAMIC", EXPERTS)
class W4A8DynamicExperts(W8A16Experts):
    """int4 weights, an int8 each, with a scale a channel times a scale a group, by whole rows: as
    linear layers of the scheme.
    """

    scheme = "W4A8_DYNAMIC"
    needs = ("npu_grouped_matmul", "npu_convert_weight_to_int4pack")

    def add_scales(self, add: Callable[..., None], weight: str, width: int, length: int) -> None:
        super().add_scales(add, weight, width, length)
        groups = length // group_size(self.config.description, length)
        by_group = {"quant_method": FusedMoeWeightScaleSupported.GROUP.value}
        for part in ("scale_second", "offset_second"):
            add(f"{weight}_{part}", width, groups, dtype=torch.float32, **by_group)

    def process(self, layer: torch.nn.Module, weight: str) -> None:
        self.symmetric(layer, weight)
        delattr(layer, f"{weight}_offset_second")
        scale = getattr(layer, f"{weight}_scale").data * getattr(layer, f"{weight}_scale_second")
        delattr(layer, f"{weight}_scale_second")
        scale = scale.transpose(1, 2).to(self.dtype).contiguous()
        replace(layer, f"{weight}_scale", scale)
        layer.register_parameter(
            f"{weight}_offset", torch.nn.Parameter(torch.zeros_like(scale), requires_grad=False)
        )
        codes = getattr(layer, weight).data.transpose(1, 2).contiguous().to(torch.int32)
        packed = [torch_npu.npu_convert_weight_to_int4pack(of_expert) for of_expert in codes]
        replace(layer, weight, torch.stack(packed))
