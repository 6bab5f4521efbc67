"""LoRA on the NPU: the products of a batch whose tokens have different adapters, or none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase


class NPUPunicaWrapper(PunicaWrapperBase):
    """Two products over all adapters' weights at once, between which each token keeps its own.

    Nothing is gathered by token, and nothing waits for the device. A token without an adapter
    (-1) keeps nothing, so that its output is the base model's to the last bit.
    """

    def add_shrink(
        self,
        y: tuple[Tensor, ...] | Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        scale: float,
        **kwargs: Any,
    ) -> None:
        """Sets y[slice] [tokens, rank] to scale * x @ A of each token's adapter, transposed."""
        x = x.view(-1, x.shape[-1])
        for out, weights in zip(y, lora_a_stacked, strict=True):
            _shrink(out.view(-1, out.shape[-1]), x, weights, self.token_lora_indices, scale)

    def add_expand(
        self,
        y: Tensor,
        x: tuple[Tensor, ...] | Tensor,
        lora_b_stacked: tuple[Tensor, ...],
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Adds x[slice] @ B of each token's adapter to its columns of y."""
        columns = y.view(-1, y.shape[-1])[:, offset_start : offset_start + sum(output_slices)]
        for part, own, weights in zip(
            columns.split(output_slices, -1), x, lora_b_stacked, strict=True
        ):
            _expand(part, own, weights, self.token_lora_indices, add_inputs)

    def add_lora_embedding(
        self,
        y: Tensor,
        x: Tensor,
        lora_b_stacked: Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """Adds x [tokens, rank], looked up already, @ B of each token's adapter to y."""
        _expand(y, x, lora_b_stacked, self.token_lora_indices, add_inputs)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds scale * x @ A @ B of each token's adapter to y, slice by slice."""
        rank, tokens = lora_b_stacked[0].shape[-1], x.view(-1, x.shape[-1]).shape[0]
        if buffer is None:
            buffer = tuple(x.new_empty(tokens, rank) for _ in output_slices)
        self.add_shrink(buffer, x, lora_a_stacked, scale)
        self.add_expand(y, buffer, lora_b_stacked, output_slices)

    def add_lora_logits(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Tensor,
        lora_b_stacked: Tensor,
        scale: float,
        *,
        buffer: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds scale * x @ A @ B of each sampled row's adapter to the logits y.

        Raises:
            NotImplementedError: the rows are those of a prompt, and an adapter changes the output
                layer.
        """
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        if x.shape[0] != self.sampler_indices.shape[0]:
            # A prompt whose logprobs are asked for: vLLM does not say which request it is of.
            if bool(lora_a_stacked.any()):
                raise NotImplementedError(
                    "logprobs of a prompt with an adapter of the output layer cannot be computed; "
                    "ask without prompt_logprobs, or leave lm_head out of the adapter"
                )
            return
        if buffer is None:
            buffer = x.new_empty(x.shape[0], lora_b_stacked.shape[-1])
        _shrink(buffer, x, lora_a_stacked, self.sampler_indices, scale)
        _expand(y[:, : lora_b_stacked.shape[-2]], buffer, lora_b_stacked, self.sampler_indices)

    def apply_lora_full_linear(
        self,
        y: Tensor,
        x: Tensor,
        weight_stacked: Tensor,
        bias_stacked: Tensor,
        module_enabled: Tensor,
    ) -> None:
        """Replaces rows of y by those of their adapter's own whole layer, where it has one."""
        full = y.new_empty(x.shape[0], weight_stacked.shape[-2])
        _shrink(full, x, weight_stacked, self.sampler_indices, 1.0)
        y.copy_(self._select_full_linear_output(y, full, bias_stacked, module_enabled))


def _own(indices: Tensor, adapters: int, tokens: int) -> Tensor:
    """[tokens, adapters, 1] bool: which adapter is a token's; none where its index is -1."""
    slots = torch.arange(adapters, device=indices.device)
    return (indices[:tokens].unsqueeze(1) == slots).unsqueeze(2)


def _shrink(out: Tensor, x: Tensor, weights: Tensor, indices: Tensor, scale: float) -> None:
    """Sets the first columns of out to scale * x @ A.T; weights are [adapters, 1, rank, inputs]."""
    adapters, rank = weights.shape[0], weights.shape[-2]
    every = x.to(weights.dtype) @ weights.view(adapters * rank, -1).T
    kept = every.view(-1, adapters, rank) * _own(indices, adapters, x.shape[0])
    out[:, :rank] = kept.sum(1) * scale


def _expand(
    y: Tensor, x: Tensor, weights: Tensor, indices: Tensor, add_inputs: bool = True
) -> None:
    """Adds x @ B.T to y, in place; weights are [adapters, 1, outputs, rank]."""
    adapters, outputs, rank = weights.shape[0], weights.shape[-2], weights.shape[-1]
    spread = x[:, :rank].to(weights.dtype).unsqueeze(1) * _own(indices, adapters, x.shape[0])
    every = weights.view(adapters, outputs, rank).transpose(1, 2).reshape(-1, outputs)
    result = (spread.view(-1, adapters * rank) @ every).to(y.dtype)
    if add_inputs:
        y += result
    else:
        y.copy_(result)
