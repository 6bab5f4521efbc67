"""Quantised experts of ModelSlim's checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch_npu
from torch import Tensor
from vllm.model_executor.layers.fused_moe import FusedMoeWeightScaleSupported
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
from vllm.model_executor.utils import set_weight_attrs

from vllm_ascend.ops.experts import COUNTS, ONE_OUTPUT, ROWS, through_experts
from vllm_ascend.quantization.products import require
from vllm_ascend.quantization.registry import (
    EXPERTS,
    UnsupportedQuantization,
    register_scheme,
)


@register_scheme("W8A8_DYNAMIC", EXPERTS)
class W8A8DynamicExperts(FusedMoEMethodBase):
    """int8 weights with a scale a channel, int8 rows with a scale a row."""

    def __init__(self, config: object, moe: FusedMoEConfig) -> None:
        super().__init__(moe)
        require("npu_dynamic_quant", "npu_grouped_matmul", what="A mixture of int8 experts")

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

        by_channel = {"quant_method": FusedMoeWeightScaleSupported.CHANNEL.value}
        inner = intermediate_size_per_partition
        for name, width, length in (("w13", 2 * inner, hidden_size), ("w2", hidden_size, inner)):
            add(f"{name}_weight", width, length, dtype=torch.int8)
            for part in ("scale", "offset"):
                add(f"{name}_weight_{part}", width, 1, dtype=torch.float32, **by_channel)
        # The grouped product wants bfloat16 scales for bfloat16 results, and float32 for float16.
        self.scales = torch.bfloat16 if params_dtype == torch.bfloat16 else torch.float32

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        for name in ("w13", "w2"):
            if getattr(layer, f"{name}_weight_offset").any():
                raise UnsupportedQuantization(
                    f"Experts of W8A8_DYNAMIC have {name}_weight_offset other than zero; on an NPU "
                    "their weights are symmetric. Quantise with symmetric weights."
                )
            delattr(layer, f"{name}_weight_offset")
            weight, scale = getattr(layer, f"{name}_weight"), getattr(layer, f"{name}_weight_scale")
            weight.data = weight.data.transpose(1, 2).contiguous()
            scale.data = scale.data.squeeze(-1).to(self.scales)

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
        return through_experts(layer, x, topk_weights, topk_ids, _products)


def _products(layer: torch.nn.Module, name: str, rows: Tensor, counts: Tensor) -> Tensor:
    """Each expert's rows, quantised, times its weights, [experts, in, out]."""
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
