"""RMS normalisation: vLLM's IR operators and Gemma's layer, by CANN's fused operators."""

from __future__ import annotations

import torch_npu
from torch import Tensor
from vllm import ir
from vllm.model_executor.layers.layernorm import GemmaRMSNorm

from vllm_ascend.chips import chip
from vllm_ascend.platform import IR_PROVIDER


def _fits(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    """The fused operator normalises whole rows and takes a weight of the input's dtype."""
    return variance_size is None and weight is not None and weight.dtype == x.dtype


def _fits_residual(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return _fits(x, weight, epsilon, variance_size)


@ir.ops.rms_norm.register_impl(IR_PROVIDER, supports_args=_fits)
def rms_norm(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> Tensor:
    """x: [..., hidden]; weight: [hidden]. Returns x normalised over the last dimension."""
    return torch_npu.npu_rms_norm(x, weight, epsilon)[0]


@ir.ops.fused_add_rms_norm.register_impl(IR_PROVIDER, supports_args=_fits_residual)
def fused_add_rms_norm(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x, x_residual: [..., hidden]. Returns their sum normalised, and the sum."""
    normalised, _, residual = torch_npu.npu_add_rms_norm(x, x_residual, weight, epsilon)
    return normalised, residual


class AscendGemmaRMSNorm(GemmaRMSNorm):
    """Scales by one plus the weight; the operator adds the one."""

    def forward_oot(
        self, x: Tensor, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        if residual is not None:
            x = residual = x + residual
        weight = self.weight.to(x.dtype)
        if chip().has("npu_gemma_rms_norm"):
            normalised = torch_npu.npu_gemma_rms_norm(x, weight, self.variance_epsilon)[0]
        else:
            normalised = torch_npu.npu_rms_norm(x, weight + 1, self.variance_epsilon)[0]
        return normalised if residual is None else (normalised, residual)
