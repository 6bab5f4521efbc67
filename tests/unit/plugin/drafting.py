"""Calls of vLLM's Triton kernels for speculative decoding by vLLM's own names, each with what the
kernel's description says, computed token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from vllm.v1.sample import rejection_sampler
from vllm.v1.spec_decode import utils

Pairs = list[tuple[torch.Tensor, torch.Tensor]]

VOCABULARY, WIDTH = 7, 3
COUNTS = [3, 0, 2, 3, 1]
"""Drafts of each request; one has none."""

TOTALS = torch.tensor(COUNTS).cumsum(0).int()
STARTS = [0, *TOTALS.tolist()]


def npu(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [t.npu() for t in tensors]


def verify(accepts: list[bool], instead: list[int], drafts: list[int], bonus: list[int]) -> list:
    """Each request's row: drafts until one is refused, then what comes instead; else the bonus."""
    rows = []
    for number, (start, end) in enumerate(pairwise(STARTS)):
        row = []
        for place in range(start, end):
            row.append(drafts[place] if accepts[place] else instead[place])
            if not accepts[place]:
                break
        else:
            row.append(bonus[number])
        rows.append(row + [-1] * (WIDTH + 1 - len(row)))
    return rows


def rejection_greedy() -> Pairs:
    """All right, one wrong at each place, padding; for all requests and for some."""
    best = torch.tensor([4, 5, 6, 1, 2, 3, 3, 3, 5])
    drafts = torch.tensor([4, 5, 6, 1, 0, 3, 2, 3, -1]).int()
    bonus = torch.tensor([[1], [2], [3], [4], [5]])
    accepts = (best == drafts).tolist()
    rows = verify(accepts, best.tolist(), drafts.tolist(), bonus.flatten().tolist())
    pairs: Pairs = []
    for greedy in (None, torch.tensor([True, True, False, True, False])):
        output = torch.full((5, WIDTH + 1), -1, dtype=torch.int32, device="npu")
        arguments = npu(TOTALS, drafts, best, bonus)
        given = None if greedy is None else greedy.npu()
        rejection_sampler._rejection_greedy_sample(output, *arguments, given, WIDTH, None, None)
        expected = torch.tensor(rows)
        if greedy is not None:
            expected[~greedy] = -1
        pairs.append((output, expected))
    uniform = torch.tensor([0.1, 0.9, 0.1, 0.6, 0.1, 0.1, 0.1, 0.1, 0.1]).double()
    rates = torch.tensor([0.5, 0.95, 0.05])
    accepts = [
        draft >= 0 and float(uniform[place]) < float(rates[place - start])
        for start, end in pairwise(STARTS)
        for place, draft in zip(range(start, end), drafts[start:end].tolist(), strict=True)
    ]
    output = torch.full((5, WIDTH + 1), -1, dtype=torch.int32, device="npu")
    rejection_sampler._rejection_greedy_sample(
        output, *npu(TOTALS, drafts, best, bonus), None, WIDTH, *npu(uniform, rates)
    )
    rows = verify(accepts, best.tolist(), drafts.tolist(), bonus.flatten().tolist())
    return [*pairs, (output, torch.tensor(rows))]


def rejection_random() -> Pairs:
    """With and without the draft's own probabilities; a greedy request is left alone."""
    torch.manual_seed(5)
    drafts = torch.tensor([4, 5, 6, 1, 0, 3, 2, -1, 5]).int()
    target = torch.randn(9, VOCABULARY).mul(2).softmax(-1)
    recovered = torch.arange(9).remainder(VOCABULARY).int()
    bonus = torch.tensor([[1], [2], [3], [4], [5]])
    uniform = torch.tensor([0.01, 0.02, 0.9, 0.05, 0.01, 0.001, 0.01, 0.0, 0.02]).double()
    greedy = torch.tensor([False, False, False, False, True])
    pairs: Pairs = []
    for own in (None, torch.randn(9, VOCABULARY).softmax(-1)):
        accepts = [
            draft >= 0
            and float(target[place, draft]) / (1.0 if own is None else float(own[place, draft]))
            >= float(uniform[place])
            for place, draft in enumerate(drafts.tolist())
        ]
        expected = torch.tensor(
            verify(accepts, recovered.tolist(), drafts.tolist(), bonus.flatten().tolist())
        )
        expected[greedy] = -1
        output = torch.full((5, WIDTH + 1), -1, dtype=torch.int32, device="npu")
        rejection_sampler._rejection_random_sample(
            output,
            *npu(TOTALS, drafts),
            None if own is None else own.npu(),
            *npu(target, bonus, recovered, uniform, greedy),
            WIDTH,
            None,
        )
        pairs.append((output, expected))
    return pairs


def expand() -> Pairs:
    values = torch.tensor([0.5, 0.0, 0.7, 0.0, 0.9])
    output = torch.empty(9, device="npu")
    rejection_sampler._expand(output, *npu(values, TOTALS), 0, 1)
    wanted = torch.where(values == 0, 1.0, values)
    counts = torch.tensor(COUNTS)
    given = rejection_sampler.expand_batch_to_tokens(*npu(torch.arange(5), TOTALS), 9)
    return [
        (output, wanted.repeat_interleave(counts)),
        (given, torch.arange(5).repeat_interleave(counts)),
    ]


def recovered() -> Pairs:
    torch.manual_seed(6)
    drafts = torch.tensor([4, 5, 6, 1, 0, 3, 2, -1, 5]).int()
    target = torch.randn(9, VOCABULARY).softmax(-1)
    noise = torch.rand(5, VOCABULARY).reciprocal()
    owners = torch.arange(5).repeat_interleave(torch.tensor(COUNTS))
    pairs: Pairs = []
    for own in (None, torch.randn(9, VOCABULARY).softmax(-1)):
        expected = []
        for place, draft in enumerate(drafts.tolist()):
            left = target[place].clone() if own is None else (target - own)[place].clamp(min=0)
            if own is None and draft >= 0:
                left[draft] = 0
            expected.append(int((left * noise[owners[place]]).argmax()))
        output = torch.empty(9, dtype=torch.int32, device="npu")
        rejection_sampler._sample_recovered_tokens(
            output,
            *npu(TOTALS, drafts),
            None if own is None else own.npu(),
            *npu(target, noise),
            max_spec_len=WIDTH,
        )
        pairs.append((output, torch.tensor(expected)))
    return pairs


def next_position() -> Pairs:
    """Within a block, into the next one, and beyond the model's length; one row is padding."""
    positions = torch.tensor([2, 3, 11])
    table = torch.tensor([[5, 6, 0], [7, 8, 0], [9, 1, 2]]).int().npu()
    lengths = torch.tensor([3, 4, 12]).int().npu()
    moved, slots = torch.zeros(3, dtype=torch.int64).npu(), torch.zeros(4, dtype=torch.int64).npu()
    utils.eagle_step_update_slot_mapping_and_metadata(
        positions.npu(), table, lengths, 4, 12, moved, slots, 4
    )
    return [
        (moved, torch.tensor([3, 4, 0])),
        (slots, torch.tensor([5 * 4 + 3, 8 * 4, -1, -1])),
        (lengths, torch.tensor([4, 5, 1])),
    ]


def last_accepted() -> Pairs:
    starts = torch.tensor([0, 4, 5, 8, 12, 14]).int()
    valid = torch.tensor([2, 1, 3, 4, 1]).int()
    last, rejected = torch.zeros(2, 5, dtype=torch.int32).npu()
    utils._eagle_prepare_inputs_padded(*npu(TOTALS, valid, starts), last, rejected, 5)
    return [
        (rejected, torch.tensor([2, 0, 0, 0, 1])),
        (last, torch.tensor([1, 4, 7, 11, 12])),
    ]


def next_tokens() -> Pairs:
    """Some valid, all, none, a token beyond the vocabulary, a discarded request."""
    sampled = torch.tensor([[3, 4, -1], [1, 2, 3], [-1, -1, -1], [5, 9, -1], [6, 6, 6]]).int()
    discarded = torch.tensor([False, False, False, False, True])
    backup = torch.tensor([10, 11, 12, 13, 14, 99]).int()
    tokens, counts = torch.zeros(2, 5, dtype=torch.int32).npu()
    utils._eagle_prepare_next_token_padded(
        *npu(sampled, discarded, backup), tokens, counts, 7, 3, 5, 3, BLOCK_SIZE_TOKENS=4
    )
    return [
        (tokens, torch.tensor([4, 3, 12, 5, 14])),
        (counts, torch.tensor([2, 3, 0, 1, 0])),
    ]


def draft_inputs() -> Pairs:
    """Two requests, one with a rejected token, with one place more, and with two and a shift."""
    tokens, positions = torch.tensor([1, 2, 3, 4, 5]).int(), torch.tensor([7, 8, 9, 3, 4])
    starts, ends = torch.tensor([0, 3, 5]).int(), torch.tensor([1, 4]).int()
    pairs: Pairs = []
    for slots, shift, wanted in (
        (1, False, ([1, 2, 50, 0, 4, 5, 60], [7, 8, 9, 0, 3, 4, 5], [2, 6], [])),
        (
            2,
            True,
            ([2, 50, 40, 0, 5, 60, 40], [7, 8, 9, 0, 3, 4, 5], [1, 2, 5, 6], [0, 1, 2, 4, 5]),
        ),
    ):
        ids, places = torch.zeros(9).int().npu(), torch.zeros(9).long().npu()
        refused, parallel = torch.zeros(2, 9, dtype=torch.bool).npu()
        fresh, states = torch.zeros(2 * slots).int().npu(), torch.zeros(5).int().npu()
        utils._copy_and_expand_eagle_inputs(
            target_token_ids_ptr=tokens.npu(),
            target_positions_ptr=positions.npu(),
            next_token_ids_ptr=torch.tensor([50, 60]).int().npu(),
            out_input_ids_ptr=ids,
            out_positions_ptr=places,
            out_is_rejected_token_mask_ptr=refused,
            out_is_masked_token_mask_ptr=parallel,
            out_new_token_indices_ptr=fresh,
            out_hidden_state_mapping_ptr=states,
            query_start_loc_ptr=starts.npu(),
            query_end_loc_ptr=ends.npu(),
            padding_token_id=0,
            parallel_drafting_token_id=40,
            total_input_tokens=5,
            num_padding_slots_per_request=slots,
            shift_input_ids=shift,
            BLOCK_SIZE_TOKENS=4,
            batch_size=2,
            num_blocks=1,
        )
        own_ids, own_places, own_fresh, own_states = (torch.tensor(row) for row in wanted)
        pairs += [(ids[:7], own_ids), (places[:7], own_places), (fresh, own_fresh)]
        pairs += [(refused.int(), torch.eye(9)[3]), (parallel[:7].int(), (own_ids == 40).int())]
        if shift:
            pairs.append((states, own_states))
    return pairs


CALLS: dict[str, Callable[[], Pairs]] = {
    "vllm.v1.sample.rejection_sampler.rejection_greedy_sample_kernel": rejection_greedy,
    "vllm.v1.sample.rejection_sampler.rejection_random_sample_kernel": rejection_random,
    "vllm.v1.sample.rejection_sampler.expand_kernel": expand,
    "vllm.v1.sample.rejection_sampler.sample_recovered_tokens_kernel": recovered,
    "vllm.v1.spec_decode.utils.eagle_step_slot_mapping_metadata_kernel": next_position,
    "vllm.v1.spec_decode.utils.eagle_prepare_inputs_padded_kernel": last_accepted,
    "vllm.v1.spec_decode.utils.eagle_prepare_next_token_padded_kernel": next_tokens,
    "vllm.v1.spec_decode.utils.copy_and_expand_eagle_inputs_kernel": draft_inputs,
}
