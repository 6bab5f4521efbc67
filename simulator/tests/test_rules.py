"""Shapes and alignment that CANN's documents rule out: refused at the call, with ACL's code and the
reason; what is just within the rule is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_npu

from simulator.tests.hccl import message

HALF = torch.float16
A2 = not os.environ.get("CANNSIM_CHIP", "").startswith(("Ascend950", "Ascend310"))


def zeros(*sizes: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    return torch.zeros(*sizes, dtype=dtype, device="npu")


def attention(
    rows: int = 2, heads: int = 2, key_heads: int = 2, width: int = 16, **more: Any
) -> torch.Tensor:
    query, key = zeros(1, heads, rows, width), zeros(1, key_heads, 4, width)
    out, _ = torch_npu.npu_fused_infer_attention_score(
        query,
        key,
        key,
        num_heads=heads,
        num_key_value_heads=key_heads,
        input_layout="BNSD",
        **more,
    )
    torch.npu.synchronize()
    return out


def paged(
    length: int = 40, blocks: int = 1, rows: int = 1, cache: torch.Tensor | None = None
) -> torch.Tensor:
    if cache is None:
        cache = zeros(4, 128, 32)
    width = cache.size(-1) // 2
    out, _ = torch_npu.npu_fused_infer_attention_score(
        zeros(1, rows, 2 * width),
        cache,
        cache,
        num_heads=2,
        num_key_value_heads=2,
        input_layout="BSH",
        block_table=torch.zeros(1, blocks, dtype=torch.int32, device="npu"),
        block_size=cache.size(1),
        actual_seq_lengths_kv=[length],
    )
    torch.npu.synchronize()
    return out


Refused = tuple[str, Callable[[], object]]
RULES: dict[str, Refused] = {
    "257 heads": ("257 heads; at most 256", lambda: attention(heads=257, key_heads=257)),
    "128 heads to one": ("at most 64 to one", lambda: attention(heads=128, key_heads=1)),
    "a wide head": ("a head of 528 numbers; at most 512", lambda: attention(width=528)),
    "a head of 24": ("multiples of 16 of float16", lambda: attention(width=24)),
    "a short table": (
        "has 1 blocks to a sequence; the longest, of 129 tokens, needs 2 of 128",
        lambda: paged(length=129),
    ),
    "an odd SwiGLU": (
        "31 entries, which have no halves",
        lambda: torch_npu.npu_swiglu(zeros(2, 31)),
    ),
    "another gamma": (
        "gamma is 8; it must have the sizes of the last dimensions of x, 2 x 16",
        lambda: torch_npu.npu_rms_norm(zeros(2, 16), zeros(8)),
    ),
    "another gamma with an addend": (
        "gamma is 8; it must",
        lambda: torch_npu.npu_add_rms_norm(zeros(2, 16), zeros(2, 16), zeros(8)),
    ),
    "an addend of another size": (
        "x1 and x2 must have the same sizes",
        lambda: torch_npu.npu_add_rms_norm(zeros(2, 16), zeros(1, 16), zeros(16)),
    ),
    "an addend of another type": (
        r"data types of x1 \(Half\) and x2 \(Float\) differ",
        lambda: torch_npu.npu_add_rms_norm(zeros(2, 16), zeros(2, 16).float(), zeros(16)),
    ),
    "a wide product of groups": (
        "the last dimension of weight has 65536 entries",
        lambda: torch_npu.npu_grouped_matmul(
            [zeros(2, 16)],
            [zeros(1, 16, 65536)],
            group_list=torch.tensor([2]).npu(),
            split_item=3,
            group_type=0,
        ),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_told(name: str) -> None:
    words, call = RULES[name]
    with pytest.raises(RuntimeError, match=rf"161002(.|\n)*{words}"):
        call()


@pytest.mark.skipif(not A2, reason="a limit of Atlas A2 and A3")
def test_a_cache_of_many_heads_is_refused_in_one_layout() -> None:
    wide = zeros(1, 128, 2 * 32768 // 64 * 64)
    words = r"with 65536 numbers to a token; at most 65535"
    query, heads = zeros(1, 2, 256 * 256), 256
    with pytest.raises(RuntimeError, match=rf"161002(.|\n)*{words}"):
        torch_npu.npu_fused_infer_attention_score(
            query,
            wide,
            wide,
            num_heads=heads,
            num_key_value_heads=heads,
            input_layout="BSH",
            block_table=torch.zeros(1, 1, dtype=torch.int32, device="npu"),
            block_size=128,
            actual_seq_lengths_kv=[5],
        )


@pytest.mark.parametrize(
    "call",
    [
        lambda: attention(heads=256, key_heads=4),
        lambda: attention(width=512),
        lambda: attention(rows=1, width=24),
        lambda: paged(length=128),
        lambda: paged(length=129, blocks=2, rows=3),
        lambda: torch_npu.npu_rms_norm(zeros(2, 3, 16), zeros(3, 16)),
        lambda: torch_npu.npu_swiglu(zeros(32, 3), 0),
    ],
    ids=["heads", "width", "one row", "a full block", "two blocks", "two dimensions", "other axis"],
)
def test_what_is_within_is_taken(call: Callable[[], object]) -> None:
    call()


@pytest.mark.parametrize(
    ("block", "words"),
    [(8, "a block of 8 tokens; it must be a multiple of 16"), (256, "at most 128 are taken")],
)
def test_paged_attention_of_atb(block: int, words: str) -> None:
    query, cache = zeros(3, 2, 16), zeros(2, block, 2, 16)
    arguments = {
        "query": query,
        "key_cache": cache,
        "value_cache": cache,
        "mask": zeros(3, 128),
        "block_table": torch.zeros(1, 2, dtype=torch.int32, device="npu"),
        "seq_len": torch.tensor([3], dtype=torch.int32),
        "context_lens": torch.tensor([6], dtype=torch.int32),
        "num_kv_heads": 2,
        "num_heads": 2,
        "scale_value": 1.0,
        "out": torch.empty_like(query),
    }
    with pytest.raises(RuntimeError, match="setup failed"):
        torch_npu._npu_paged_attention_splitfuse(**arguments)
    assert words in message()  # torch-npu has no place for the text of ATB's errors
