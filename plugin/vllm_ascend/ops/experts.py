"""Mixture of experts: tokens sorted by expert, two grouped products, and the
weighted sum of each token's results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_npu
from torch import Tensor
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)

from vllm_ascend.chips import chip
from vllm_ascend.platform import UnsupportedOnNPU

ROWS = 0
"""Grouped products over groups of rows of x."""

ONE_OUTPUT = 2
"""Grouped products written into one tensor."""

COUNTS = 1
"""Group lists that say how many rows each group has."""


def _gelu(x: Tensor, tanh: bool) -> Tensor:
    return torch_npu.npu_geglu(x, dim=-1, approximate=int(tanh), activate_left=True)[0]


ACTIVATIONS: dict[MoEActivation, Callable[[Tensor], Tensor]] = {
    MoEActivation.SILU: torch_npu.npu_swiglu,
    MoEActivation.GELU: lambda x: _gelu(x, tanh=False),
    MoEActivation.GELU_TANH: lambda x: _gelu(x, tanh=True),
    MoEActivation.SWIGLUOAI: lambda x: torch_npu.npu_clipped_swiglu(x, interleaved=True),
}
"""Activations of experts: [rows, 2 * intermediate] -> [rows, intermediate]."""


class AscendUnquantizedFusedMoEMethod(UnquantizedFusedMoEMethod):
    """Experts in the dtype of the model; weights keep the layout in which they are loaded."""

    def __init__(self, moe: FusedMoEConfig) -> None:
        super().__init__(moe)
        if not chip().has("npu_grouped_matmul"):
            raise UnsupportedOnNPU(
                f"Mixtures of experts are not implemented on {chip().series}; serve a dense model."
            )

    @property
    def is_monolithic(self) -> bool:
        return False

    def forward_oot(
        self,
        layer: torch.nn.Module,
        x: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        shared_experts: object,
        shared_experts_input: Tensor | None,
    ) -> Tensor:
        return through_experts(layer, x, topk_weights, topk_ids, _products)


Products = Callable[[torch.nn.Module, str, Tensor, Tensor], Tensor]
"""Layer, ``w13`` or ``w2``, rows sorted by expert and their counts to each row's product."""


def through_experts(
    layer: torch.nn.Module, x: Tensor, topk_weights: Tensor, topk_ids: Tensor, products: Products
) -> Tensor:
    """x: [tokens, hidden]; weights and ids: [tokens, k]. Returns [tokens, hidden].

    Raises:
        NotImplementedError: an activation or a layout of experts that is not there yet.
    """
    activation = ACTIVATIONS.get(layer.activation)
    if activation is None:
        raise NotImplementedError(
            f"experts with the activation {layer.activation.value!r} are not implemented on an "
            f"NPU; {', '.join(sorted(a.value for a in ACTIVATIONS))} are"
        )
    if layer.expert_map is not None or layer.apply_router_weight_on_input:
        raise NotImplementedError(
            "expert parallelism, and router weights on the input, are not implemented on an NPU"
        )
    experts = layer.w13_weight.shape[0]
    rows, places, counts, _ = torch_npu.npu_moe_init_routing_v2(
        x,
        topk_ids.int(),
        active_num=topk_ids.numel(),
        expert_num=experts,
        expert_tokens_num_type=COUNTS,
        expert_tokens_num_flag=True,
        active_expert_range=[0, experts],
    )
    rows = activation(products(layer, "w13", rows, counts))
    rows = products(layer, "w2", rows, counts)
    return torch_npu.npu_moe_token_unpermute(rows, places, probs=topk_weights)


def _products(layer: torch.nn.Module, name: str, rows: Tensor, counts: Tensor) -> Tensor:
    """Each expert's rows times its weights, [experts, out, in], and its bias, if there is one."""
    bias = getattr(layer, f"{name}_bias", None)
    if bias is not None and bias.dtype == torch.bfloat16:
        bias = bias.float()  # the operator adds no bfloat16 bias
    return torch_npu.npu_grouped_matmul(
        [rows],
        [getattr(layer, f"{name}_weight").transpose(1, 2)],
        bias=None if bias is None else [bias],
        group_list=counts,
        split_item=ONE_OUTPUT,
        group_type=ROWS,
        group_list_type=COUNTS,
    )[0]
