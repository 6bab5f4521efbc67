"""Gated activations by CANN's fused operators."""

from __future__ import annotations

import torch_npu
from torch import Tensor
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul


class AscendSiluAndMul(SiluAndMul):
    """x: [..., 2 * d] -> silu(x[..., :d]) * x[..., d:]."""

    def forward_oot(self, x: Tensor) -> Tensor:
        return torch_npu.npu_swiglu(x)


class AscendGeluAndMul(GeluAndMul):
    """x: [..., 2 * d] -> gelu(x[..., :d]) * x[..., d:]."""

    def forward_oot(self, x: Tensor) -> Tensor:
        return torch_npu.npu_geglu(
            x, dim=-1, approximate=int(self.approximate == "tanh"), activate_left=True
        )[0]
