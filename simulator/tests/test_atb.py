"""The operators that torch-npu runs through ATB, against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch_npu

from simulator.tests.tensors import TOLERANCES, fill

HALVES = (torch.float16, torch.bfloat16)
HEADS, KEY_HEADS, WIDTH, SLOTS = 4, 2, 16, 16
SCALE = 1 / math.sqrt(WIDTH)


def near(got: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.cpu(), expected.to(got.dtype), rtol=rtol, atol=atol)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """query [rows, heads, width], key and value [length, key heads, width], mask [rows, length]."""
    keys, values = (x.float().repeat_interleave(HEADS // KEY_HEADS, 1) for x in (key, value))
    scores = torch.einsum("rhd,lhd->hrl", query.float(), keys) * SCALE
    if mask is not None:
        scores = scores + mask.float()
    return torch.einsum("hrl,lhd->rhd", scores.softmax(-1), values)


def causal(rows: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((rows, rows), -10000.0).triu(1).to(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
class TestCache:
    def test_tokens_are_written_to_their_slots(self, dtype: torch.dtype) -> None:
        key, value = (fill((5, KEY_HEADS, WIDTH), dtype, "any", seed) for seed in (1, 2))
        slots = torch.tensor([17, 3, 0, 9, 23], dtype=torch.int32)
        caches = [torch.zeros(3, SLOTS, KEY_HEADS, WIDTH, dtype=dtype).npu() for _ in range(2)]
        torch_npu._npu_reshape_and_cache(key.npu(), value.npu(), *caches, slots.npu())
        for rows, cache in zip((key, value), caches, strict=True):
            expected = torch.zeros(3 * SLOTS, KEY_HEADS, WIDTH, dtype=dtype)
            expected[slots.long()] = rows
            assert torch.equal(cache.cpu().view_as(expected), expected)

    @pytest.mark.parametrize("lengths", [[1], [16, 3], [40, 9, 32]], ids=str)
    def test_attention_over_pages(self, dtype: torch.dtype, lengths: list[int]) -> None:
        batch = len(lengths)
        query = fill((batch, HEADS, WIDTH), dtype, "any", 3)
        caches = [fill((batch * 3, SLOTS, KEY_HEADS, WIDTH), dtype, "any", seed) for seed in (4, 5)]
        table = torch.randperm(batch * 3).to(torch.int32).view(batch, 3)
        out = torch.empty_like(query).npu()
        torch_npu._npu_paged_attention(
            query=query.npu(),
            key_cache=caches[0].npu(),
            value_cache=caches[1].npu(),
            num_kv_heads=KEY_HEADS,
            num_heads=HEADS,
            scale_value=SCALE,
            block_table=table.npu(),
            context_lens=torch.tensor(lengths, dtype=torch.int32),
            out=out,
        )
        for i, length in enumerate(lengths):
            key, value = (c[table[i].long()].flatten(0, 1)[:length] for c in caches)
            near(out[i], attend(query[i : i + 1], key, value)[0])

    def test_several_rows_of_a_query_over_pages(self, dtype: torch.dtype) -> None:
        rows, lengths = [3, 1], [20, 6]
        query = fill((4, HEADS, WIDTH), dtype, "any", 3)
        caches = [fill((4, SLOTS, KEY_HEADS, WIDTH), dtype, "any", seed) for seed in (4, 5)]
        table = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)
        mask = torch.zeros(4, 32)
        for row, end in enumerate([18, 19, 20, 6]):
            mask[row, end:] = -10000.0
        mask = mask.to(dtype)
        out = torch.empty_like(query).npu()
        torch_npu._npu_paged_attention_splitfuse(
            query=query.npu(),
            key_cache=caches[0].npu(),
            value_cache=caches[1].npu(),
            mask=mask.npu(),
            block_table=table.npu(),
            seq_len=torch.tensor(rows, dtype=torch.int32),
            context_lens=torch.tensor(lengths, dtype=torch.int32),
            num_kv_heads=KEY_HEADS,
            num_heads=HEADS,
            scale_value=SCALE,
            out=out,
        )
        first = 0
        for i, (count, length) in enumerate(zip(rows, lengths, strict=True)):
            key, value = (c[table[i].long()].flatten(0, 1)[:length] for c in caches)
            part = slice(first, first + count)
            near(out[part], attend(query[part], key, value, mask[part, :length]))
            first += count


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("lengths", [[7], [4, 9, 1]], ids=str)
class TestPackedSequences:
    def inputs(self, dtype: torch.dtype, lengths: list[int]) -> list[torch.Tensor]:
        total = sum(lengths)
        shapes = [(total, heads, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
        return [fill(shape, dtype, "any", seed) for seed, shape in enumerate(shapes)]

    def check(
        self, out: torch.Tensor, inputs: list[torch.Tensor], lengths: list[int], masked: bool
    ) -> None:
        pieces = zip(*(x.split(lengths) for x in (out.cpu(), *inputs)), strict=True)
        for got, query, key, value in pieces:
            mask = causal(len(query), torch.float32) if masked else None
            near(got, attend(query, key, value, mask))

    def test_each_sees_all_of_itself(self, dtype: torch.dtype, lengths: list[int]) -> None:
        inputs = self.inputs(dtype, lengths)
        out = torch.empty_like(inputs[0]).npu()
        torch_npu._npu_flash_attention_unpad(
            *(x.npu() for x in inputs),
            seq_len=torch.tensor(lengths, dtype=torch.int32),
            scale_value=SCALE,
            num_heads=HEADS,
            num_kv_heads=KEY_HEADS,
            out=out,
        )
        self.check(out, inputs, lengths, masked=False)

    def test_a_mask_hides(self, dtype: torch.dtype, lengths: list[int]) -> None:
        inputs = self.inputs(dtype, lengths)
        out = torch.empty_like(inputs[0]).npu()
        torch_npu._npu_flash_attention(
            *(x.npu() for x in inputs),
            mask=causal(max(lengths), dtype).npu(),
            seq_len=torch.tensor(lengths, dtype=torch.int32),
            scale_value=SCALE,
            num_heads=HEADS,
            num_kv_heads=KEY_HEADS,
            out=out,
        )
        self.check(out, inputs, lengths, masked=True)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("halves", [True, False], ids=["halves", "neighbours"])
def test_rotary_positions(dtype: torch.dtype, halves: bool) -> None:
    positions = torch.tensor([3, 0, 7])
    angles = torch.outer(torch.arange(8.0), torch.arange(1.0, WIDTH / 2 + 1) / WIDTH)
    table = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
    states = [fill((3, heads * WIDTH), dtype, "any", heads) for heads in (HEADS, KEY_HEADS)]
    turned = [x.npu() for x in states]
    torch_npu._npu_rotary_embedding(positions.npu(), *turned, WIDTH, table.npu(), halves)
    cos, sin = table[positions].float().unsqueeze(1).chunk(2, -1)
    for got, x in zip(turned, states, strict=True):
        heads = x.float().view(3, -1, WIDTH)
        if halves:
            a, b = heads.chunk(2, -1)
            expected = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        else:
            a, b = heads[..., ::2], heads[..., 1::2]
            expected = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        near(got, expected.reshape(x.shape))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_product_into_a_float32_sum(dtype: torch.dtype) -> None:
    x, weight = fill((6, 4), dtype, "any", 1), fill((6, 5), dtype, "any", 2)
    total = fill((4, 5), torch.float32, "any", 3)
    expected = total + x.float().t() @ weight.float()
    got = total.npu()
    torch_npu._npu_matmul_add_fp32(x.npu(), weight.npu(), got)
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-5, atol=1e-4)
