"""GELU in the form that is asked for, and gated activations by CANN's fused operators."""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul

ATEN = torch.library.Library("aten", "IMPL")  # lives as the process does


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """``torch.nn.functional.gelu``, whose ``approximate`` torch-npu passes on only here.

    By torch-npu's own kernel it is the form with tanh whatever is asked for (documentation of
    ``torch_npu.npu_gelu``), which is up to 5e-4 away from the one with erf. Models and encoders of
    transformers call it directly, so that replacing vLLM's activations would not reach them all.
    """
    return torch_npu.npu_gelu(x, approximate=approximate)


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
