"""Fused inference attention against a plain formula: layouts, paging, masks, refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch_npu
from hypothesis import given
from hypothesis import strategies as st

from simulator.tests.tensors import TOLERANCES, fill

D = 16
BLOCK = 16
HALVES = (torch.float16, torch.bfloat16)


def causal_mask() -> torch.Tensor:
    """The compressed mask that sparse modes 2 to 4 take: [2048, 2048], true is hidden."""
    return torch.triu(torch.ones(2048, 2048, dtype=torch.bool), 1).npu()


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    return causal_mask()


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence, causal from the right lower corner, in float32. query: [rows, heads, D];
    key, value: [length, key heads, D]. ``window``: how many keys before its own a row sees.
    Returns the output [rows, heads, D] and the log-sum-exp of the scores [rows, heads].
    """
    rows, heads, _ = query.shape
    length, key_heads, _ = key.shape
    out, lse = torch.empty(rows, heads, value.size(2)), torch.empty(rows, heads)
    for head in range(heads):
        own = head // (heads // key_heads)
        for row in range(rows):
            at = length - rows + row
            first = 0 if window is None else max(0, at - window)
            seen = slice(first, at + 1)
            scores = key[seen, own].float() @ query[row, head].float() * scale
            lse[row, head] = scores.logsumexp(0)
            out[row, head] = scores.softmax(0) @ value[seen, own].float()
    return out, lse


def near(got: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.cpu(), expected.to(got.dtype), rtol=rtol, atol=atol)


def paged(parts: Sequence[torch.Tensor], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A cache [blocks, BLOCK, key heads * D] that holds the sequences in shuffled blocks, and the
    block table [sequences, blocks of the longest]. What is elsewhere is not a number, so that a
    result shows when it was read.
    """
    pages = [math.ceil(part.size(0) / BLOCK) for part in parts]
    free = torch.randperm(sum(pages) + 2, generator=torch.Generator().manual_seed(seed)).tolist()
    width = parts[0].size(1) * parts[0].size(2)
    cache = torch.full((len(free), BLOCK, width), math.nan, dtype=parts[0].dtype)
    table = torch.zeros(len(parts), max(pages), dtype=torch.int32)
    for i, part in enumerate(parts):
        for page, rows in enumerate(part.flatten(1).split(BLOCK)):
            block = free.pop()
            table[i, page] = block
            cache[block, : rows.size(0)] = rows
    return cache, table


class Batch:
    """Sequences of (new rows, length with the rows): queries, keys and values of each."""

    def __init__(
        self,
        lengths: Sequence[tuple[int, int]],
        heads: int,
        key_heads: int,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        self.lengths, self.heads, self.key_heads = lengths, heads, key_heads
        self.scale = D**-0.5
        self.queries = [
            fill((r, heads, D), dtype, "any", seed + i) for i, (r, _) in enumerate(lengths)
        ]
        self.keys = [
            fill((n, key_heads, D), dtype, "any", seed + 50 + i) for i, (_, n) in enumerate(lengths)
        ]
        self.values = [
            fill((n, key_heads, D), dtype, "any", seed + 90 + i) for i, (_, n) in enumerate(lengths)
        ]

    def expected(self, window: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed over the sequences."""
        each = [
            attend(q, k, v, self.scale, window)
            for q, k, v in zip(self.queries, self.keys, self.values, strict=True)
        ]
        return torch.cat([out for out, _ in each]), torch.cat([lse for _, lse in each])

    def totals(self, of: int) -> list[int]:
        sums = torch.tensor([length[of] for length in self.lengths]).cumsum(0)
        return sums.tolist()

    def numbers(self) -> dict[str, object]:
        return {
            "num_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "scale": self.scale,
        }

    def run_paged(self, mask: torch.Tensor, **more: object) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed queries over paged keys and values, as a serving engine calls it."""
        keys, table = paged(self.keys)
        values, _ = paged(self.values)
        arguments = {
            "atten_mask": mask,
            "block_table": table.npu(),
            "block_size": BLOCK,
            "input_layout": "TND",
            "sparse_mode": 3,
            "actual_seq_lengths": self.totals(0),
            "actual_seq_lengths_kv": [n for _, n in self.lengths],
            **self.numbers(),
            **more,
        }
        return torch_npu.npu_fused_infer_attention_score(
            torch.cat(self.queries).npu(), keys.npu(), values.npu(), **arguments
        )


MIXES = {
    "decode": [(1, 33), (1, 1), (1, 16)],
    "decode of very uneven lengths": [(1, 190), (1, 2), (1, 1)],
    "decode of one": [(1, 32)],
    "as many rows as sequences, but not one each": [(2, 20), (0, 16)],
    "prefill": [(5, 5), (17, 17)],
    "chunked": [(4, 20), (16, 31)],
    "mixed": [(1, 40), (7, 7), (3, 19), (1, 1)],
}


class TestPaged:
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2), (6, 1)])
    @pytest.mark.parametrize("mix", MIXES)
    def test_packed(
        self, mix: str, heads: int, key_heads: int, dtype: torch.dtype, mask: torch.Tensor
    ) -> None:
        batch = Batch(MIXES[mix], heads, key_heads, dtype)
        got, _ = batch.run_paged(mask)
        near(got, batch.expected()[0])

    @given(
        lengths=st.lists(
            st.tuples(st.integers(1, 9), st.integers(0, 30)).map(lambda t: (t[0], t[0] + t[1])),
            min_size=1,
            max_size=4,
        ),
        groups=st.integers(1, 3),
        seed=st.integers(0, 99),
    )
    def test_any_mix(self, lengths: list[tuple[int, int]], groups: int, seed: int) -> None:
        batch = Batch(lengths, 2 * groups, 2, torch.float16, seed)
        near(batch.run_paged(causal_mask())[0], batch.expected()[0])

    @pytest.mark.parametrize("window", [0, 3, 16])
    @pytest.mark.parametrize("mix", MIXES)
    def test_sliding_window(self, mix: str, window: int, mask: torch.Tensor) -> None:
        batch = Batch(MIXES[mix], 4, 2, torch.float16)
        got, _ = batch.run_paged(mask, sparse_mode=4, pre_tokens=window, next_tokens=0)
        near(got, batch.expected(window)[0])

    def test_log_sum_exp(self, mask: torch.Tensor) -> None:
        batch = Batch(MIXES["mixed"], 4, 2, torch.float16)
        out, lse = batch.run_paged(mask, softmax_lse_flag=True)
        expected_out, expected_lse = batch.expected()
        near(out, expected_out)
        assert lse.dtype == torch.float32
        torch.testing.assert_close(lse.cpu().squeeze(-1), expected_lse, rtol=2e-3, atol=2e-3)

    def test_a_long_prompt(self, mask: torch.Tensor) -> None:
        """Longer than the rows that are computed at once."""
        batch = Batch([(600, 610)], 1, 1, torch.float16)
        near(batch.run_paged(mask)[0], batch.expected()[0])

    def test_decode_as_one_row_a_sequence(self) -> None:
        """Layout BSND with one query each and no mask: every key is seen."""
        batch = Batch(MIXES["decode"], 4, 2, torch.bfloat16)
        keys, table = paged(batch.keys)
        values, _ = paged(batch.values)
        got, _ = torch_npu.npu_fused_infer_attention_score(
            torch.stack(batch.queries).npu(),
            keys.npu(),
            values.npu(),
            block_table=table.npu(),
            block_size=BLOCK,
            input_layout="BSND",
            actual_seq_lengths_kv=[n for _, n in batch.lengths],
            **batch.numbers(),
        )
        near(got.squeeze(1), batch.expected()[0])

    def test_the_other_cache_layout(self, mask: torch.Tensor) -> None:
        """[blocks, heads, block, D] instead of [blocks, block, heads * D]."""
        batch = Batch(MIXES["mixed"], 4, 2, torch.float16)
        (keys, table), (values, _) = paged(batch.keys), paged(batch.values)
        keys, values = (
            x.view(-1, BLOCK, 2, D).transpose(1, 2).contiguous() for x in (keys, values)
        )
        got, _ = torch_npu.npu_fused_infer_attention_score(
            torch.cat(batch.queries).npu(),
            keys.npu(),
            values.npu(),
            atten_mask=mask,
            block_table=table.npu(),
            block_size=BLOCK,
            input_layout="TND",
            sparse_mode=3,
            actual_seq_lengths=batch.totals(0),
            actual_seq_lengths_kv=[n for _, n in batch.lengths],
            **batch.numbers(),
        )
        near(got, batch.expected()[0])


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """[batch, rows, heads, D] as ``layout``."""
    return {"BSH": x.flatten(2), "BSND": x, "BNSD": x.transpose(1, 2).contiguous()}[layout]


class TestContiguous:
    def test_packed(self, mask: torch.Tensor) -> None:
        batch = Batch([(5, 5), (1, 1), (12, 12)], 4, 2, torch.float16)
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(torch.cat(x).npu() for x in (batch.queries, batch.keys, batch.values)),
            atten_mask=mask,
            input_layout="TND",
            sparse_mode=3,
            actual_seq_lengths=batch.totals(0),
            actual_seq_lengths_kv=batch.totals(1),
            **batch.numbers(),
        )
        near(got, batch.expected()[0])

    @pytest.mark.parametrize("layout", ["BSH", "BSND", "BNSD"])
    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_causal(self, layout: str, dtype: torch.dtype, mask: torch.Tensor) -> None:
        batch = Batch([(6, 6), (6, 6)], 4, 2, dtype)
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(
                laid_out(torch.stack(x), layout).npu()
                for x in (batch.queries, batch.keys, batch.values)
            ),
            atten_mask=mask,
            input_layout=layout,
            sparse_mode=2,
            **batch.numbers(),
        )
        near(got, laid_out(batch.expected()[0].view(2, 6, 4, D), layout))

    @pytest.mark.parametrize("layout", ["BSH", "BSND", "BNSD"])
    def test_without_a_mask_every_key_is_seen(self, layout: str) -> None:
        batch = Batch([(3, 9)], 2, 1, torch.float16)
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(
                laid_out(torch.stack(x), layout).npu()
                for x in (batch.queries, batch.keys, batch.values)
            ),
            input_layout=layout,
            **batch.numbers(),
        )
        rows = [
            attend(q[None], batch.keys[0], batch.values[0], batch.scale)[0]
            for q in batch.queries[0]
        ]
        near(got, laid_out(torch.cat(rows)[None], layout))

    def test_a_mask_of_ones_own(self) -> None:
        """Sparse mode 0: the mask says which keys a row may not see."""
        batch = Batch([(4, 4)], 2, 2, torch.float16)
        hidden = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
        got, _ = torch_npu.npu_fused_infer_attention_score(
            *(
                laid_out(torch.stack(x), "BNSD").npu()
                for x in (batch.queries, batch.keys, batch.values)
            ),
            atten_mask=hidden.npu(),
            input_layout="BNSD",
            **batch.numbers(),
        )
        for row in range(4):
            seen = ~hidden[row]
            expected, _ = attend(
                batch.queries[0][row][None], batch.keys[0][seen], batch.values[0][seen], batch.scale
            )
            near(got[0, :, row], expected[0])


class TestRefusals:
    """Each error of torch-npu contains the simulator's message."""

    def refused(
        self, message: str, batch: Batch, mask: torch.Tensor | None, **more: object
    ) -> None:
        with pytest.raises(RuntimeError, match=message):
            batch.run_paged(mask, **more)  # type: ignore[arg-type]
        torch.npu.synchronize()

    @pytest.fixture
    def batch(self) -> Batch:
        return Batch(MIXES["mixed"], 4, 2, torch.float16)

    def test_float32(self, mask: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = Batch(MIXES["mixed"], 4, 2, torch.float32)
        self.refused("data type of query is Float.*float32-attention", batch, mask)

    @pytest.mark.parametrize("size", [7, 1024])
    def test_block_sizes(self, size: int, batch: Batch, mask: torch.Tensor) -> None:
        self.refused(
            f"a block size of {size}; it must be a multiple of 16", batch, mask, block_size=size
        )

    def test_a_missing_mask(self, batch: Batch) -> None:
        self.refused("sparse mode 3 needs an attention mask of 2048 x 2048", batch, None)

    def test_a_mask_of_another_size(self, batch: Batch) -> None:
        small = torch.ones(64, 64, dtype=torch.bool, device="npu")
        self.refused("needs an attention mask of 2048 x 2048", batch, small)

    def test_heads_that_are_no_multiple(self, batch: Batch, mask: torch.Tensor) -> None:
        self.refused(
            "must be a multiple of the number of key heads", batch, mask, num_key_value_heads=3
        )

    def test_a_layout_that_is_not_simulated(self, batch: Batch, mask: torch.Tensor) -> None:
        self.refused("layout", batch, mask, input_layout="SBH")
