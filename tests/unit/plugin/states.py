"""Calls of the overrides for gated delta nets and for sparse latent attention."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule
from vllm.forward_context import override_forward_context
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.model_executor.layers.mla import MultiHeadLatentAttentionWrapper
from vllm.v1.attention.backends.gdn_attn import GDNAttentionMetadata, GDNAttentionMetadataBuilder
from vllm.v1.attention.backends.registry import AttentionBackendEnum, MambaAttentionBackendEnum
from vllm_ascend.attention import sparse
from vllm_ascend.ops.delta import Windows

Pairs = list[tuple[torch.Tensor, torch.Tensor]]

KEY_HEADS, HEADS, WIDTH, TAPS = 2, 4, 16, 4
CHANNELS = (2 * KEY_HEADS + HEADS) * WIDTH


def integers(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device="npu")


def delta_net() -> QwenGatedDeltaNetAttention:
    """vLLM's layer without its projections: what its core reads, with three blocks of states."""
    layer = QwenGatedDeltaNetAttention.__new__(QwenGatedDeltaNetAttention)
    torch.nn.Module.__init__(layer)
    layer.prefix, layer.tp_size = "net", 1
    layer.key_dim, layer.value_dim = KEY_HEADS * WIDTH, HEADS * WIDTH
    layer.head_k_dim = layer.head_v_dim = WIDTH
    layer.conv1d = torch.nn.Conv1d(CHANNELS, CHANNELS, TAPS, groups=CHANNELS, bias=False)
    layer.A_log = torch.nn.Parameter(torch.rand(HEADS))
    layer.dt_bias = torch.nn.Parameter(torch.rand(HEADS))
    layer.requires_grad_(False).bfloat16().npu()
    layer.kv_cache = (
        torch.randn(3, TAPS - 1, CHANNELS, device="npu", dtype=torch.bfloat16),
        torch.randn(3, HEADS, WIDTH, WIDTH, device="npu"),
    )
    return layer


def net_step(counts: tuple[int, ...], computed: bool) -> SimpleNamespace:
    """A step of two sequences, whose states are in the blocks 2 and 1."""
    starts = integers(0, counts[0], sum(counts))
    begins = torch.full((2,), computed, device="npu")
    return SimpleNamespace(
        num_actual_tokens=sum(counts),
        num_prefills=0 if max(counts) == 1 else 2,
        non_spec_state_indices_tensor=integers(2, 1),
        non_spec_query_start_loc=starts,
        has_initial_state=None if max(counts) == 1 else begins,
        windows=Windows.of(starts, sum(counts), TAPS),
        ends=(counts[0], sum(counts)),
    )


def plain_net(
    layer: QwenGatedDeltaNetAttention, mixed: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """One whole sequence in float32: [tokens, heads, width]."""
    weight = layer.conv1d.weight.cpu().float()
    padded = torch.nn.functional.pad(mixed.float().t()[None], (TAPS - 1, 0))
    x = torch.nn.functional.conv1d(padded, weight, groups=CHANNELS)[0].t()
    x = torch.nn.functional.silu(x).split([KEY_HEADS * WIDTH] * 2 + [HEADS * WIDTH], -1)
    query, key, value = (part.view(1, len(mixed), -1, WIDTH) for part in x)
    query, key = (part.repeat_interleave(HEADS // KEY_HEADS, 2) for part in (query, key))
    rate = torch.nn.functional.softplus(a.float() + layer.dt_bias.cpu().float())
    decay = -layer.A_log.cpu().float().exp() * rate
    return torch_recurrent_gated_delta_rule(
        query,
        key,
        value,
        decay[None],
        b.float().sigmoid()[None],
        initial_state=None,
        output_final_state=False,
        use_qk_l2norm_in_kernel=True,
    )[0][0]


def net() -> Pairs:
    """Prompts in two chunks, the first of which finds another's states, then a step of decode."""
    layer, steps = delta_net(), ((5, 3), (2, 4), (1, 1))
    lengths = [sum(counts) for counts in zip(*steps, strict=True)]
    inputs = [
        [torch.randn(length, size).bfloat16() for size in (CHANNELS, HEADS, HEADS)]
        for length in lengths
    ]
    expected = [plain_net(layer, *given) for given in inputs]
    done, pairs = [0, 0], []
    for counts in steps:
        spans = [slice(d, d + n) for d, n in zip(done, counts, strict=True)]
        parts = [
            torch.cat([given[i][span] for given, span in zip(inputs, spans, strict=True)])
            for i in range(3)
        ]
        output = torch.empty(sum(counts), HEADS, WIDTH, device="npu", dtype=torch.bfloat16)
        context: Any = SimpleNamespace(attn_metadata={"net": net_step(counts, done[0] > 0)})
        mixed, a, b = (part.npu() for part in parts)
        with override_forward_context(context):
            layer._forward_core(mixed, b, a, output)
        wanted = [whole[span] for whole, span in zip(expected, spans, strict=True)]
        pairs.append((output.float(), torch.cat(wanted)))
        done = [d + n for d, n in zip(done, counts, strict=True)]
    return pairs


def net_metadata() -> Pairs:
    """Two sequences of three and one tokens: each token's window, older rows first."""
    kind = MambaAttentionBackendEnum.GDN_ATTN.get_class().get_builder_cls()
    builder = object.__new__(kind)
    builder.kv_cache_spec = SimpleNamespace(shapes=((2, CHANNELS), (HEADS, WIDTH, WIDTH)))
    common: Any = SimpleNamespace(
        query_start_loc=integers(0, 3, 4),
        query_start_loc_cpu=torch.tensor([0, 3, 4]),
        num_reqs=2,
        num_actual_tokens=4,
    )
    theirs = GDNAttentionMetadata(2, 4, 0, 0, 0, 0, 4)
    with patch.object(GDNAttentionMetadataBuilder, "build", return_value=theirs):
        found = builder.build(0, common)
    assert found.ends == (3, 4)
    windows = torch.tensor([[0, 1, 4, 2], [1, 4, 5, 3], [4, 5, 6, 7]])
    return [(found.windows.inputs, windows), (found.windows.states, torch.tensor([[5, 6], [3, 7]]))]


def sparse_step(rows: tuple[int, ...], lengths: tuple[int, ...], table: torch.Tensor) -> Any:
    ends = [sum(rows[: i + 1]) for i in range(len(rows))]
    slots = torch.cat(
        [
            torch.arange(n - r, n) + 128 * int(table[i, 0])
            for i, (r, n) in enumerate(zip(rows, lengths, strict=True))
        ]
    )
    return sparse.AscendSparseMetadata(
        num_tokens=ends[-1],
        query_ends=ends,
        seq_lens=list(lengths),
        key_counts=integers(*lengths),
        block_table=table.npu(),
        slot_mapping=slots.npu(),
        num_actual_tokens=ends[-1],
        num_decodes=len(rows),
        num_decode_tokens=ends[-1],
        row_ends=integers(*ends),
    )


def sparse_attention() -> Pairs:
    """A prefill of three rows and a decode, each over two chosen tokens, or the one it has."""
    rank, size, heads = 512, 64, 2
    backend = AttentionBackendEnum.ASCEND_SPARSE_LATENT.get_class()
    impl = object.__new__(backend.get_impl_cls())
    impl.kv_lora_rank, impl.qk_rope_head_dim, impl.num_heads, impl.scale = rank, size, heads, 0.1
    cache = torch.zeros(3, 128, rank + size, device="npu", dtype=torch.bfloat16)
    latent, rotated = torch.randn(7, rank).bfloat16(), torch.randn(7, 1, size).bfloat16()
    slots = torch.tensor([128, 129, 130, 256, 257, 258, 259], device="npu")
    impl.do_kv_cache_update(latent.npu(), rotated.npu(), cache, slots, "auto", None)
    chosen = torch.tensor([[0, -1], [1, 0], [0, 2], [3, 1]], dtype=torch.int32)
    impl.init_topk_indices_buffer(None, chosen.npu())
    query = torch.randn(4, heads, rank).bfloat16(), torch.randn(4, heads, size).bfloat16()
    step = sparse_step((3, 1), (3, 4), torch.tensor([[1], [2]], dtype=torch.int32))
    given, _ = impl.forward_mqa(tuple(x.npu() for x in query), cache, step, None)
    whole, keys = torch.cat(query, -1).float(), torch.cat([latent, rotated[:, 0]], -1).float()
    sees = torch.zeros(4, 7, dtype=torch.bool)
    for row, places in enumerate(([0], [0, 1], [0, 2], [3 + 1, 3 + 3])):
        sees[row, places] = True
    scores = torch.einsum("thd,kd->htk", whole, keys).mul(impl.scale).where(sees, -torch.inf)
    return [(given.float(), torch.einsum("htk,kd->thd", scores.softmax(-1), latent.float()))]


def indexer() -> Pairs:
    """The best three of up to 40 tokens, in a prefill, a chunk behind 30 others, and a decode."""
    assert isinstance(
        MultiHeadLatentAttentionWrapper.__new__(MultiHeadLatentAttentionWrapper),
        sparse.AscendLatentAttentionWrapper,
    )
    heads, size, best = 64, 128, 3
    rows, lengths = (4, 10, 1), (4, 40, 7)
    table = torch.tensor([[2], [0], [1]], dtype=torch.int32)
    keys = [torch.randn(n, size).bfloat16() for n in lengths]
    cache = torch.zeros(3, 128, size, dtype=torch.bfloat16)
    for i, (n, r) in enumerate(zip(lengths, rows, strict=True)):
        cache[int(table[i, 0]), : n - r] = keys[i][: n - r]
    ours = object.__new__(sparse.AscendIndexer)
    torch.nn.Module.__init__(ours)
    own: Any = SimpleNamespace(
        head_dim=size,
        topk_tokens=best,
        k_cache=SimpleNamespace(kv_cache=cache.npu()),
        topk_indices_buffer=torch.zeros(20, best, dtype=torch.int32, device="npu"),
    )
    ours.indexer = own
    query, weights = torch.randn(15, heads, size).bfloat16(), torch.randn(15, heads).bfloat16()
    new = torch.cat([k[-r:] for k, r in zip(keys, rows, strict=True)]).unsqueeze(1)
    ours.choose(query.npu(), new.npu(), weights.npu(), sparse_step(rows, lengths, table))
    expected, row = [], 0
    for k, r in zip(keys, rows, strict=True):
        for place in range(len(k) - r, len(k)):
            products = (query[row].float() @ k[: place + 1].float().t()).relu()
            scores = (products * weights[row].float().unsqueeze(1)).sum(0)
            order = scores.topk(min(best, place + 1)).indices.tolist()
            expected.append(sorted(order + [-1] * (best - len(order))))
            row += 1
    given = own.topk_indices_buffer[:15].cpu().sort(-1).values
    return [(given, torch.tensor(expected, dtype=torch.int32))]


CALLS: dict[str, Callable[[], Pairs]] = {
    "vllm.v1.attention.backends.registry.MambaAttentionBackendEnum.GDN_ATTN": net_metadata,
    "vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn.QwenGatedDeltaNetAttention": net,
    "vllm.v1.attention.backends.registry.AttentionBackendEnum.ASCEND_SPARSE_LATENT": (
        sparse_attention
    ),
    "vllm.model_executor.layers.mla.MultiHeadLatentAttentionWrapper": indexer,
}
