"""The gated delta rule and its convolution on the NPU, against transformers' own on the CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cannsim import counters
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)
from vllm_ascend import chips
from vllm_ascend.ops import delta

KEY_HEADS, HEADS, WIDTH, VALUES = 2, 4, 16, 8
ENDS = (1, 71, 73, 210)
"""Sequences of one token, of more than a chunk, of two tokens, and of more than two chunks."""


def of_length_one(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def tokens(count: int, dtype: torch.dtype) -> delta.Delta:
    torch.manual_seed(count)
    return delta.Delta(
        of_length_one(torch.randn(count, KEY_HEADS, WIDTH)).to(dtype),
        of_length_one(torch.randn(count, KEY_HEADS, WIDTH)).to(dtype),
        torch.randn(count, HEADS, VALUES).to(dtype),
        -torch.rand(count, HEADS) * 2,
        torch.rand(count, HEADS).to(dtype),
    )


def on_the_npu(given: delta.Delta) -> delta.Delta:
    fields = {f.name: getattr(given, f.name).npu() for f in dataclasses.fields(given)}
    return delta.Delta(**fields)


def expected(
    given: delta.Delta, states: torch.Tensor, ends: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequence by sequence; transformers keeps states with the width of keys first."""
    outputs, after, begin = [], [], 0
    for i, end in enumerate(ends):
        groups = HEADS // KEY_HEADS
        query, key = (
            x[begin:end].float().repeat_interleave(groups, 1) for x in (given.query, given.key)
        )
        rule = (
            torch_recurrent_gated_delta_rule if end - begin == 1 else torch_chunk_gated_delta_rule
        )
        output, state = rule(
            query[None],
            key[None],
            given.value[begin:end].float()[None],
            given.decay[begin:end][None],
            given.beta[begin:end].float()[None],
            initial_state=states[i].transpose(-1, -2)[None].float(),
            output_final_state=True,
        )
        outputs.append(output[0])
        after.append(state[0].transpose(-1, -2))
        begin = end
    return torch.cat(outputs), torch.stack(after)


@pytest.fixture(params=["by operators", "out of parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the chip has CANN's operators, or is taken for one that has not."""
    apart = request.param == "out of parts"
    if apart:
        lacks = frozenset({"npu_recurrent_gated_delta_rule", "npu_chunk_gated_delta_rule"})
        bare = dataclasses.replace(chips.chip(), lacks=lacks)
        monkeypatch.setattr(delta, "chip", lambda: bare)
    return apart


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_types_than_bfloat16_go_out_of_parts(dtype: torch.dtype) -> None:
    given = tokens(2, dtype)
    states = torch.randn(2, HEADS, VALUES, WIDTH)
    found = on_the_npu(given).one_token_each(states.npu())
    for ours, theirs in zip(found, expected(given, states, (1, 2)), strict=True):
        torch.testing.assert_close(ours.cpu().float(), theirs, atol=1e-2, rtol=1e-2)


def launched(operator: str) -> int:
    torch.npu.synchronize()
    return int(counters.snapshot()["launches"].get(operator, {"count": 0})["count"])


def test_sequences_of_any_length(parts: bool) -> None:
    dtype = torch.float32 if parts else torch.bfloat16
    given = tokens(ENDS[-1], dtype)
    states = torch.randn(len(ENDS), HEADS, VALUES, WIDTH).to(dtype)
    starts = torch.tensor((0, *ENDS), dtype=torch.int32, device="npu")
    before = launched("aclnnChunkGatedDeltaRule")
    found = on_the_npu(given).sequences(states.npu(), starts, ENDS)
    assert launched("aclnnChunkGatedDeltaRule") - before == (0 if parts else 1)
    tolerance = 1e-4 if parts else 3e-2
    for ours, theirs in zip(found, expected(given, states, ENDS), strict=True):
        torch.testing.assert_close(ours.cpu().float(), theirs, atol=tolerance, rtol=tolerance)


def test_one_token_of_each_sequence(parts: bool) -> None:
    dtype = torch.float32 if parts else torch.bfloat16
    given = tokens(3, dtype)
    states = torch.randn(3, HEADS, VALUES, WIDTH).to(dtype)
    before = launched("aclnnRecurrentGatedDeltaRule")
    found = on_the_npu(given).one_token_each(states.npu())
    assert launched("aclnnRecurrentGatedDeltaRule") - before == (0 if parts else 1)
    tolerance = 1e-5 if parts else 3e-2
    for ours, theirs in zip(found, expected(given, states, (1, 2, 3)), strict=True):
        torch.testing.assert_close(ours.cpu().float(), theirs, atol=tolerance, rtol=tolerance)


def test_decode_copies_nothing_between_host_and_device(parts: bool) -> None:
    given = on_the_npu(tokens(3, torch.bfloat16))
    states = torch.randn(3, HEADS, VALUES, WIDTH, device="npu", dtype=torch.bfloat16)
    torch.npu.synchronize()
    before = counters.snapshot()
    given.one_token_each(states)
    after = counters.snapshot()
    for kind in ("copies", "synchronizations"):
        assert after[kind] == before[kind]


def test_a_convolution_goes_on_where_the_sequence_stopped() -> None:
    """Two sequences in steps of 1, 2 and 5 tokens, against one convolution of the whole."""
    torch.manual_seed(0)
    channels, width, steps = 6, 4, ((1, 5), (2, 1), (5, 2))
    weight = torch.randn(channels, width)
    whole = [torch.randn(sum(n), channels) for n in zip(*steps, strict=True)]
    states = torch.zeros(2, width - 1, channels, device="npu")
    found: list[list[torch.Tensor]] = [[], []]
    done = [0, 0]
    for counts in steps:
        x = torch.cat([w[d : d + n] for w, d, n in zip(whole, done, counts, strict=True)])
        starts = torch.tensor([0, counts[0], sum(counts)], dtype=torch.int32, device="npu")
        windows = delta.Windows.of(starts, sum(counts), width)
        y, states = delta.causal_convolution(x.npu(), weight.npu(), states, windows)
        for kept, part in zip(found, y.cpu().split(counts), strict=True):
            kept.append(part)
        done = [d + n for d, n in zip(done, counts, strict=True)]
    for x, parts_found, state in zip(whole, found, states.cpu(), strict=True):
        padded = torch.nn.functional.pad(x.t()[None], (width - 1, 0))
        y = torch.nn.functional.conv1d(padded, weight.unsqueeze(1), groups=channels)[0].t()
        torch.testing.assert_close(torch.cat(parts_found), torch.nn.functional.silu(y))
        torch.testing.assert_close(state, x[1 - width :])
