"""Speculative decoding's steps between two models, which vLLM has as Triton kernels, as tensor
operators on the NPU: none of them waits for the device.

The parameters have the kernels' names, by which vLLM passes them. Requests lie one behind the other
in every list of tokens; ``cu_...`` are running totals without a zero before them, and a draft of -1
is padding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _counts(totals: Tensor) -> Tensor:
    """[requests] from their running totals."""
    return torch.diff(totals, prepend=totals.new_zeros(1))


def _owners(ends: Tensor, tokens: int) -> Tensor:
    """[tokens], the request of each token, from the running totals ``ends`` [requests]."""
    places = torch.arange(tokens, dtype=ends.dtype, device=ends.device)
    return torch.searchsorted(ends, places, right=True).clamp_(max=ends.shape[0] - 1)


def _by_request(totals: Tensor, width: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Drafts as a table of ``width`` columns.

    Returns:
        counts [requests], the place of each column's token in the list [requests, width], and
        whether there is one.
    """
    counts = _counts(totals)
    columns = torch.arange(width, dtype=totals.dtype, device=totals.device)
    places = (totals - counts).unsqueeze(1) + columns
    return counts, places.clamp_(max=max(tokens - 1, 0)).long(), columns < counts.unsqueeze(1)


def _write(
    output: Tensor,
    rows: Tensor | None,
    tokens: Tensor,
    accepted: Tensor,
    counts: Tensor,
    there: Tensor,
    bonus: Tensor,
) -> None:
    """Writes each request's tokens up to the first that is not accepted, that one included, or
    all and the bonus token behind them.

    Args:
        output: [requests, width + 1], in place; what is not written stays.
        rows: [requests] bool, which requests are meant; None for all.
        tokens: [requests, width], the draft where it is accepted, else what comes instead.
        accepted: [requests, width] bool.
        counts: [requests], the number of drafts.
        there: [requests, width] bool, whether a column holds a draft.
        bonus: one token a request.
    """
    # Behind the drafts nothing can be rejected, so that the column after the last says it all.
    going = torch.cat([torch.ones_like(output[:, :1], dtype=torch.bool), accepted | ~there], 1)
    reached = going.long().cumprod(1).bool()
    counts = counts.unsqueeze(1).long()
    columns = torch.arange(output.shape[1], device=output.device)
    last = (columns == counts) & reached.gather(1, counts)
    body = torch.zeros_like(last)
    body[:, :-1] = there & reached[:, :-1]
    values = torch.cat([tokens.to(output.dtype), output[:, -1:]], 1)
    values = torch.where(last, bonus.view(-1, 1).to(output.dtype), values)
    written = body | last
    if rows is not None:
        written &= rows.view(-1, 1)
    output.copy_(torch.where(written, values, output))


def rejection_greedy_sample(
    output_token_ids_ptr: Tensor,
    cu_num_draft_tokens_ptr: Tensor,
    draft_token_ids_ptr: Tensor,
    target_argmax_ptr: Tensor,
    bonus_token_ids_ptr: Tensor,
    is_greedy_ptr: Tensor | None,
    max_spec_len: int,
    uniform_probs_ptr: Tensor | None,
    synthetic_conditional_rates_ptr: Tensor | None,
    SYNTHETIC_MODE: bool,  # noqa: N803
) -> None:
    """Accepts drafts as long as they are the target's most likely tokens.

    Fills ``output_token_ids_ptr`` [requests, max_spec_len + 1] for greedy requests. In synthetic
    mode drafts are accepted at given rates instead, for benchmarks.
    """
    counts, places, there = _by_request(
        cu_num_draft_tokens_ptr, max_spec_len, draft_token_ids_ptr.shape[0]
    )
    drafts, best = draft_token_ids_ptr[places], target_argmax_ptr[places]
    if SYNTHETIC_MODE:
        assert uniform_probs_ptr is not None
        assert synthetic_conditional_rates_ptr is not None
        rates = synthetic_conditional_rates_ptr[:max_spec_len]
        accepted = (uniform_probs_ptr[places] < rates) & (drafts >= 0)
        tokens = torch.where(accepted, drafts, best.to(drafts.dtype))
    else:
        accepted, tokens = drafts == best, best
    _write(
        output_token_ids_ptr, is_greedy_ptr, tokens, accepted, counts, there, bonus_token_ids_ptr
    )


def rejection_random_sample(
    output_token_ids_ptr: Tensor,
    cu_num_draft_tokens_ptr: Tensor,
    draft_token_ids_ptr: Tensor,
    draft_probs_ptr: Tensor | None,
    target_probs_ptr: Tensor,
    bonus_token_ids_ptr: Tensor,
    recovered_token_ids_ptr: Tensor,
    uniform_probs_ptr: Tensor,
    is_greedy_ptr: Tensor,
    max_spec_len: int,
    vocab_size: int,
    synthetic_conditional_rates_ptr: Tensor | None,
    NO_DRAFT_PROBS: bool,  # noqa: N803
    SYNTHETIC_MODE: bool,  # noqa: N803
) -> None:
    """Accepts a draft with the probability target / draft, as https://arxiv.org/abs/2211.17192.

    Fills ``output_token_ids_ptr`` [requests, max_spec_len + 1] for requests that sample; the first
    draft that is not accepted is replaced by its token of ``recovered_token_ids_ptr``.
    """
    counts, places, there = _by_request(
        cu_num_draft_tokens_ptr, max_spec_len, draft_token_ids_ptr.shape[0]
    )
    drafts, uniform = draft_token_ids_ptr[places], uniform_probs_ptr[places]
    if SYNTHETIC_MODE:
        assert synthetic_conditional_rates_ptr is not None
        accepted = uniform < synthetic_conditional_rates_ptr[:max_spec_len]
    else:
        chosen = draft_token_ids_ptr.clamp(min=0).long().unsqueeze(1)
        target = target_probs_ptr.gather(1, chosen).squeeze(1)[places]
        draft = torch.ones_like(target)
        if draft_probs_ptr is not None:
            draft = draft_probs_ptr.gather(1, chosen).squeeze(1)[places]
        accepted = (draft > 0) & (target / draft >= uniform)
    accepted &= drafts >= 0
    tokens = torch.where(accepted, drafts, recovered_token_ids_ptr[places].to(drafts.dtype))
    sampling = ~is_greedy_ptr
    _write(output_token_ids_ptr, sampling, tokens, accepted, counts, there, bonus_token_ids_ptr)


def expand(
    output_ptr: Tensor,
    input_ptr: Tensor,
    cu_num_tokens_ptr: Tensor,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int,  # noqa: N803
) -> None:
    """Repeats each request's value for each of its tokens; one value is replaced by another."""
    values = input_ptr.masked_fill(input_ptr == replace_from, replace_to)
    output_ptr.copy_(values[_owners(cu_num_tokens_ptr, output_ptr.shape[0])])


def sample_recovered_tokens(
    output_token_ids_ptr: Tensor,
    cu_num_draft_tokens_ptr: Tensor,
    draft_token_ids_ptr: Tensor,
    draft_probs_ptr: Tensor | None,
    target_probs_ptr: Tensor,
    inv_q_ptr: Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,  # noqa: N803
    NO_DRAFT_PROBS: bool,  # noqa: N803
    USE_FP64_GUMBEL: bool,  # noqa: N803
) -> None:
    """Draws the token that follows a rejected draft, at every draft's place [tokens].

    It is the largest of max(target - draft, 0) / q, q being exponential noise [requests, vocab].
    """
    if draft_probs_ptr is None:
        drafts = draft_token_ids_ptr.long().unsqueeze(1)
        words = torch.arange(target_probs_ptr.shape[1], device=drafts.device)
        left = target_probs_ptr.masked_fill(words == drafts, 0)
    else:
        left = (target_probs_ptr - draft_probs_ptr).clamp_(min=0)
    owners = _owners(cu_num_draft_tokens_ptr, output_token_ids_ptr.shape[0])
    output_token_ids_ptr.copy_((left * inv_q_ptr[owners]).argmax(-1))


def eagle_step_slot_mapping_metadata(
    positions_ptr: Tensor,
    block_table_ptr: Tensor,
    block_table_stride: int,
    seq_lens_ptr: Tensor,
    out_clamped_positions_ptr: Tensor,
    out_slot_mapping_ptr: Tensor,
    block_size: int,
    max_model_len: int,
    n_blocks_per_req: int,
    PAD_ID: int,  # noqa: N803
    batch_size: int,
) -> None:
    """Moves each request one token on: its position, its cache slot and, in place, its length.

    A request that would outgrow the model's length goes back to position 0, without a slot.
    """
    new = positions_ptr[:batch_size] + 1
    beyond = new >= max_model_len
    new = new.masked_fill(beyond, 0)
    column = (new // block_size).clamp_(max=n_blocks_per_req - 1)
    blocks = block_table_ptr[:batch_size].gather(1, column.long().unsqueeze(1)).squeeze(1)
    slots = blocks.to(out_slot_mapping_ptr.dtype) * block_size + new % block_size
    out_slot_mapping_ptr[:batch_size] = slots.masked_fill(beyond, PAD_ID)
    out_slot_mapping_ptr[batch_size:] = PAD_ID
    lengths = (seq_lens_ptr[:batch_size] + 1).masked_fill(beyond, 1)
    seq_lens_ptr[:batch_size] = lengths.clamp_(max=max_model_len)
    out_clamped_positions_ptr[:batch_size] = new


def eagle_prepare_inputs_padded(
    cu_num_draft_tokens_ptr: Tensor,
    valid_sampled_tokens_count_ptr: Tensor,
    query_start_loc_gpu_ptr: Tensor,
    token_indices_to_sample_ptr: Tensor,
    num_rejected_tokens_gpu_ptr: Tensor,
    num_reqs: int,
) -> None:
    """Finds the last accepted token of each request, and how many behind it were rejected."""
    drafts = _counts(cu_num_draft_tokens_ptr[:num_reqs])
    rejected = drafts + 1 - valid_sampled_tokens_count_ptr[:num_reqs]
    rejected = rejected.masked_fill(drafts <= 0, 0)
    token_indices_to_sample_ptr[:num_reqs] = (
        query_start_loc_gpu_ptr[1 : num_reqs + 1] - 1 - rejected
    )
    num_rejected_tokens_gpu_ptr[:num_reqs] = rejected


def eagle_prepare_next_token_padded(
    sampled_token_ids_ptr: Tensor,
    discard_request_mask_ptr: Tensor,
    backup_next_token_ids_ptr: Tensor,
    next_token_ids_ptr: Tensor,
    valid_sampled_tokens_count_ptr: Tensor,
    vocab_size: int,
    num_sampled_tokens_per_req: int,
    num_reqs: int,
    stride_sampled_token_ids: int,
    BLOCK_SIZE_TOKENS: int,  # noqa: N803
) -> None:
    """Counts each request's valid tokens and takes the last of them; the backup where none is."""
    sampled = sampled_token_ids_ptr[:num_reqs, :num_sampled_tokens_per_req]
    valid = (sampled != -1) & (sampled < vocab_size)
    valid &= ~discard_request_mask_ptr[:num_reqs].unsqueeze(1)
    columns = torch.arange(sampled.shape[1], device=sampled.device)
    last = torch.where(valid, columns, -1).amax(1)
    tokens = sampled.gather(1, last.clamp(min=0).unsqueeze(1)).squeeze(1)
    backup = backup_next_token_ids_ptr[:num_reqs]
    next_token_ids_ptr[:num_reqs] = torch.where(last >= 0, tokens.to(backup.dtype), backup)
    valid_sampled_tokens_count_ptr[:num_reqs] = valid.sum(1)


def copy_and_expand_eagle_inputs(
    target_token_ids_ptr: Tensor,
    target_positions_ptr: Tensor,
    next_token_ids_ptr: Tensor,
    out_input_ids_ptr: Tensor,
    out_positions_ptr: Tensor,
    out_is_rejected_token_mask_ptr: Tensor,
    out_is_masked_token_mask_ptr: Tensor,
    out_new_token_indices_ptr: Tensor,
    out_hidden_state_mapping_ptr: Tensor,
    query_start_loc_ptr: Tensor,
    query_end_loc_ptr: Tensor,
    padding_token_id: int,
    parallel_drafting_token_id: int,
    total_input_tokens: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
    BLOCK_SIZE_TOKENS: int,  # noqa: N803
) -> None:
    """Lays out the draft model's input: per request the accepted tokens, the token that was
    sampled after them, places that are drafted in parallel, and the rejected ones as padding.

    With ``shift_input_ids`` each request's first token falls out. ``query_end_loc_ptr`` [requests]
    is the last accepted token of each, ``query_start_loc_ptr`` [requests + 1] the first.
    """
    requests = query_end_loc_ptr.shape[0]
    shift, slots = int(shift_input_ids), num_padding_slots_per_request
    starts = query_start_loc_ptr[: requests + 1]
    grown = torch.arange(requests + 1, dtype=starts.dtype, device=starts.device) * (slots - shift)
    begins = starts + grown
    total = total_input_tokens + requests * (slots - shift)
    owner = _owners(begins[1:], total)
    kept = query_end_loc_ptr - starts[:-1] + 1 - shift
    place = torch.arange(total, dtype=starts.dtype, device=starts.device) - begins[owner]
    beyond = place - kept[owner]
    parallel, rejected = (beyond > 0) & (beyond < slots), beyond >= slots

    source = (starts[owner] + shift + place).clamp_(max=total_input_tokens - 1)
    tokens = target_token_ids_ptr[source]
    tokens = torch.where(beyond == 0, next_token_ids_ptr[owner].to(tokens.dtype), tokens)
    tokens = tokens.masked_fill(parallel, parallel_drafting_token_id)
    out_input_ids_ptr[:total] = tokens.masked_fill(rejected, padding_token_id)
    positions = target_positions_ptr[starts[:-1]][owner] + place
    out_positions_ptr[:total] = positions.masked_fill(rejected, 0)
    out_is_rejected_token_mask_ptr[:total] = rejected
    out_is_masked_token_mask_ptr[:total] = parallel
    fresh = (begins[:-1] + kept).unsqueeze(1) + torch.arange(slots, device=starts.device)
    out_new_token_indices_ptr[: requests * slots] = fresh.flatten().to(
        out_new_token_indices_ptr.dtype
    )
    if shift_input_ids:
        own = _owners(starts[1:], total_input_tokens)
        inputs = torch.arange(total_input_tokens, dtype=starts.dtype, device=starts.device)
        out_hidden_state_mapping_ptr[:total_input_tokens] = inputs + grown[own]
