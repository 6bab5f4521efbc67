"""The choice of experts for each token by CANN's fused gating operator."""

from __future__ import annotations

import torch
import torch_npu
from torch import Tensor


def _choose(
    logits: Tensor,
    count: int,
    bias: Tensor | None,
    *,
    sigmoid: bool,
    renormalize: bool,
) -> tuple[Tensor, Tensor]:
    """The experts of each token: [tokens, experts] -> weights, float32, and indices, int32, each
    [tokens, count].

    The bias [experts] decides with the scores which experts are taken, and has no part in their
    weights.
    """
    weights, experts, scores = torch_npu.npu_moe_gating_top_k(
        logits.float(),
        count,
        bias=None if bias is None else bias.float(),
        norm_type=int(sigmoid),
        out_flag=sigmoid and not renormalize,
    )
    # The operator makes the weights add up to one for sigmoid scores, and not for softmax.
    if sigmoid and not renormalize:
        weights = scores.gather(1, experts.long())
    elif renormalize and not sigmoid:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts


def topk_softmax(
    topk_weights: Tensor,
    topk_ids: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None,
    is_padding: Tensor | None,
) -> None:
    """Writes ``topk_weights`` and ``topk_ids``, [tokens, k]; padding tokens are routed as others,
    and nobody reads what comes of them. ``token_expert_indices`` serves kernels that are not here.
    """
    weights, experts = _choose(
        gating_output, topk_ids.shape[1], bias, sigmoid=False, renormalize=renormalize
    )
    topk_weights.copy_(weights)
    topk_ids.copy_(experts)


def topk_sigmoid(
    topk_weights: Tensor,
    topk_ids: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None,
    routed_scaling_factor: float,
    is_padding: Tensor | None,
) -> None:
    """As ``topk_softmax``, with sigmoid scores and a factor on the weights."""
    weights, experts = _choose(
        gating_output, topk_ids.shape[1], bias, sigmoid=True, renormalize=renormalize
    )
    topk_weights.copy_(weights * routed_scaling_factor)
    topk_ids.copy_(experts)


SCHEMAS: dict[str, str] = {
    "topk_softmax": (
        "(Tensor(a!) topk_weights, Tensor(b!) topk_indices, Tensor token_expert_indices, "
        "Tensor gating_output, bool renormalize, Tensor? bias, Tensor? is_padding) -> ()"
    ),
    "topk_sigmoid": (
        "(Tensor(a!) topk_weights, Tensor(b!) topk_indices, Tensor token_expert_indices, "
        "Tensor gating_output, bool renormalize, Tensor? bias, float routed_scaling_factor, "
        "Tensor? is_padding) -> ()"
    ),
}
"""Schemas of the operators that vLLM's compiled library would define, as vLLM calls them."""

LIBRARY = torch.library.Library("_moe_C", "FRAGMENT")  # lives as the process does
