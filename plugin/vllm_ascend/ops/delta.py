"""The gated delta rule over packed sequences, each with a state: by CANN's operators where the chip
has them, otherwise out of torch's. And the causal convolution before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch_npu
from torch import Tensor

from vllm_ascend.chips import chip

CHUNK = 64
"""Tokens whose changes of the state are solved for at once; the power of two that others take."""


@dataclass(frozen=True)
class Windows:
    """Which rows a causal convolution reads, of the old states of all sequences followed by the
    step's tokens, and which of them are the new states.

    Attributes:
        inputs: [width, tokens], int64: the rows of each token's window, its own last.
        states: [sequences, width - 1], int64: the last rows that each sequence has seen.
    """

    inputs: Tensor
    states: Tensor

    @classmethod
    def of(cls, starts: Tensor, tokens: int, width: int) -> Windows:
        """Of sequences that begin at ``starts`` [sequences + 1], the last of which is the end."""
        kept, sequences = width - 1, len(starts) - 1
        first = starts[:-1].to(torch.int64)
        token = torch.arange(tokens, device=starts.device)
        sequence = torch.searchsorted(starts[1:], token.to(starts.dtype), right=True)
        sequence = sequence.clamp(max=sequences - 1)

        def rows(place: Tensor, of: Tensor) -> Tensor:
            begin = first[of]
            old = of * kept + kept + place - begin
            return torch.where(place >= begin, place + sequences * kept, old)

        back = torch.arange(-kept, 1, device=starts.device).unsqueeze(1)
        every = torch.arange(sequences, device=starts.device).unsqueeze(1)
        last = starts[1:].to(torch.int64).unsqueeze(1) + back[:-1].view(1, -1)
        return cls(rows(token + back, sequence.expand(width, -1)), rows(last, every))


def causal_convolution(
    x: Tensor, weight: Tensor, states: Tensor, windows: Windows
) -> tuple[Tensor, Tensor]:
    """A convolution of each channel with its own weights, then SiLU.

    Args:
        x: [tokens, channels].
        weight: [channels, width].
        states: [sequences, width - 1, channels]: the inputs before the step's.
        windows: which rows of both each output and each new state is made of.

    Returns:
        Outputs as x, and the new states.
    """
    rows = torch.cat([states.flatten(0, 1).to(x.dtype), x])
    mixed = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for place, tap in zip(windows.inputs, weight.float().t(), strict=True):
        mixed = torch.addcmul(mixed, rows[place].float(), tap)
    return torch.nn.functional.silu(mixed).to(x.dtype), rows[windows.states]


@dataclass(frozen=True)
class Delta:
    """What the rule takes of each token: S = a S + b (v - a S k) k^T, o = S q (arXiv:2412.06464).

    Attributes:
        query, key: [tokens, key heads, width], of length one.
        value: [tokens, heads, width of values].
        decay: [tokens, heads], float32, the logarithm of a.
        beta: [tokens, heads], b.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    decay: Tensor
    beta: Tensor

    @property
    def scale(self) -> float:
        return self.query.shape[-1] ** -0.5

    def one_token_each(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Every token is of another sequence. Outputs as value; the new states, as ``states``:
        [sequences, heads, width of values, width of keys].
        """
        if not self._fits("npu_recurrent_gated_delta_rule"):
            return self._step(states)
        sequences = torch.arange(len(states), dtype=torch.int32, device=states.device)
        own = states.to(self.query.dtype)
        outputs = torch_npu.npu_recurrent_gated_delta_rule(
            self.query,
            self.key,
            self.value,
            own,
            beta=self.beta,
            scale=self.scale,
            actual_seq_lengths=torch.ones_like(sequences),
            ssm_state_indices=sequences,
            g=self.decay,
        )
        return outputs, own.to(states.dtype)

    def sequences(
        self, states: Tensor, starts: Tensor, ends: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Packed sequences of any length, from ``starts`` [sequences + 1] on the device and to
        ``ends`` on the host. Returns as ``one_token_each``.
        """
        if self._fits("npu_chunk_gated_delta_rule"):
            outputs, final = torch_npu.npu_chunk_gated_delta_rule(
                self.query,
                self.key,
                self.value,
                beta=self.beta,
                initial_state=states.to(self.query.dtype),
                actual_seq_lengths=starts.diff(),
                scale=self.scale,
                g=self.decay,
            )
            return outputs, final.to(states.dtype)
        begins = [0, *ends[:-1]]
        parts = [
            self._chunks(slice(begin, end), states[i])
            for i, (begin, end) in enumerate(zip(begins, ends, strict=True))
        ]
        return torch.cat([part[0] for part in parts]), torch.stack([part[1] for part in parts])

    def _fits(self, function: str) -> bool:
        """Both take bfloat16 only (CANN's operator documentation)."""
        return chip().has(function) and self.query.dtype == torch.bfloat16

    def _grouped(self) -> tuple[Tensor, Tensor]:
        """Query, scaled, and key with as many heads as value, in float32."""
        groups = self.value.shape[1] // self.key.shape[1]
        query, key = (x.float().repeat_interleave(groups, 1) for x in (self.query, self.key))
        return query * self.scale, key

    def _step(self, states: Tensor) -> tuple[Tensor, Tensor]:
        query, key = (x.unsqueeze(-1) for x in self._grouped())
        state = states.float() * self.decay.exp()[..., None, None]
        change = self.value.float().unsqueeze(-1) - torch.matmul(state, key)
        change = change * self.beta.float()[..., None, None]
        state = state + change * key.transpose(-1, -2)
        outputs = torch.matmul(state, query).squeeze(-1)
        return outputs.to(self.value.dtype), state.to(states.dtype)

    def _chunks(self, tokens: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        """One sequence, chunk by chunk: changes within a chunk depend on one another by a lower
        triangular matrix, whose inverse is the product of (1 + L^(2^i)), since L^CHUNK is zero.
        """
        query, key = (x[tokens].transpose(0, 1) for x in self._grouped())
        value = self.value[tokens].float().transpose(0, 1)
        beta = self.beta[tokens].float().t().unsqueeze(-1)
        decay = self.decay[tokens].t()
        after, outputs = state.float(), []
        for first in range(0, value.shape[1], CHUNK):
            part = slice(first, min(first + CHUNK, value.shape[1]))
            output, after = _chunk(
                query[:, part], key[:, part], value[:, part], beta[:, part], decay[:, part], after
            )
            outputs.append(output)
        joined = torch.cat(outputs, 1).transpose(0, 1)
        return joined.to(self.value.dtype), after.to(state.dtype)


def _chunk(
    query: Tensor, key: Tensor, value: Tensor, beta: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """query, key, value: [heads, tokens, width]; beta: [heads, tokens, 1]; decay: [heads, tokens];
    state: [heads, width of value, width of key]. Returns outputs as value, and the next state.
    """
    total = decay.cumsum(-1)
    tokens = total.shape[-1]
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=value.device).triu(1)
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    since = total.exp().unsqueeze(-1)
    power = -(beta * torch.matmul(key, key.transpose(-1, -2)) * between).tril(-1)
    wanted = beta * (value - since * torch.matmul(key, state.transpose(-1, -2)))
    changes = wanted + torch.matmul(power, wanted)
    reach = 2
    while reach < tokens:
        power = torch.matmul(power, power)
        changes = changes + torch.matmul(power, changes)
        reach *= 2
    seen = torch.matmul(query, key.transpose(-1, -2)) * between
    outputs = since * torch.matmul(query, state.transpose(-1, -2)) + torch.matmul(seen, changes)
    left = (total[:, -1:] - total).exp().unsqueeze(-1)
    state = state * since[:, -1:] + torch.matmul((changes * left).transpose(-1, -2), key)
    return outputs, state
