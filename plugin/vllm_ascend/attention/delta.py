"""Gated delta nets (Qwen3-Next, Qwen3.5): their layer's core, and what it needs of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch_npu
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.gdn_attn import (
    GDNAttentionBackend,
    GDNAttentionMetadata,
    GDNAttentionMetadataBuilder,
)

from vllm_ascend.ops.delta import Delta, Windows, causal_convolution

EPSILON = 1e-6
"""Added to the squared length of keys and queries, as the models were trained with."""


@dataclass
class AscendDeltaMetadata(GDNAttentionMetadata):
    """One step.

    Attributes:
        windows: what the convolution reads.
        ends: running total of tokens after each sequence (host).
    """

    windows: Windows | None = None
    ends: tuple[int, ...] = ()


class AscendDeltaMetadataBuilder(GDNAttentionMetadataBuilder):
    """Adds the convolution's rows, once for all layers; there are no kernels that want chunks."""

    def _build_chunk_metadata(
        self,
        prefill_query_start_loc: torch.Tensor,
        prefill_query_start_loc_cpu: torch.Tensor,
        device: torch.device,
    ) -> tuple[None, None]:  # type: ignore[override]
        return None, None

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        num_accepted_tokens: torch.Tensor | None = None,
        num_decode_draft_tokens_cpu: torch.Tensor | None = None,
        fast_build: bool = False,
    ) -> AscendDeltaMetadata:
        common = common_attn_metadata
        metadata = super().build(
            common_prefix_len, common, num_accepted_tokens, num_decode_draft_tokens_cpu, fast_build
        )
        starts = common.query_start_loc[: common.num_reqs + 1]
        width = self.kv_cache_spec.shapes[0][0] + 1
        return AscendDeltaMetadata(
            **vars(metadata),
            windows=Windows.of(starts, common.num_actual_tokens, width),
            ends=tuple(common.query_start_loc_cpu[1 : common.num_reqs + 1].tolist()),
        )


class AscendDeltaBackend(GDNAttentionBackend):
    """Gated delta nets over states in a paged cache."""

    @staticmethod
    def get_builder_cls() -> type[AscendDeltaMetadataBuilder]:
        return AscendDeltaMetadataBuilder


class AscendQwenGatedDeltaNetAttention(QwenGatedDeltaNetAttention):
    """The core between the projections: convolution, gates and the delta rule."""

    def _forward_core(
        self,
        mixed_qkv: torch.Tensor,
        b: torch.Tensor,
        a: torch.Tensor,
        core_attn_out: torch.Tensor,
    ) -> None:
        """mixed_qkv: [tokens, channels]; a, b: [tokens, heads]. Fills ``core_attn_out`` [tokens,
        heads, width], and writes each sequence's states.
        """
        steps = get_forward_context().attn_metadata
        if not isinstance(steps, dict) or self.prefix not in steps:  # profiling: no cache yet
            return
        step = steps[self.prefix]
        tokens, places = step.num_actual_tokens, step.non_spec_state_indices_tensor
        convolved, recurrent = self.kv_cache
        kept, states = convolved[places], recurrent[places]
        if step.has_initial_state is not None:  # a sequence that begins finds another's states
            kept, states = (
                x * step.has_initial_state.view(-1, *[1] * (x.dim() - 1)) for x in (kept, states)
            )
        weight = self.conv1d.weight.squeeze(1)
        mixed, kept = causal_convolution(mixed_qkv[:tokens], weight, kept, step.windows)
        delta = self._delta(mixed, a[:tokens], b[:tokens])
        if step.num_prefills == 0:
            outputs, states = delta.one_token_each(states)
        else:
            outputs, states = delta.sequences(states, step.non_spec_query_start_loc, step.ends)
        convolved[places], recurrent[places] = kept.to(convolved.dtype), states
        core_attn_out[:tokens] = outputs

    def _delta(self, mixed: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Delta:
        sizes = [n // self.tp_size for n in (self.key_dim, self.key_dim, self.value_dim)]
        query, key, value = mixed.split(sizes, dim=-1)
        decay = torch.nn.functional.softplus(a.float() + self.dt_bias.float())
        return Delta(
            self._of_length_one(query),
            self._of_length_one(key),
            value.reshape(len(value), -1, self.head_v_dim),
            -self.A_log.float().exp() * decay,
            b.sigmoid(),
        )

    def _of_length_one(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, heads, width]: RMS normalisation with a weight that divides by sqrt(width)."""
        width = self.head_k_dim
        heads = x.reshape(len(x), -1, width)
        weight = torch.full((width,), width**-0.5, dtype=x.dtype, device=x.device)
        return torch_npu.npu_rms_norm(heads, weight, EPSILON / width)[0]
