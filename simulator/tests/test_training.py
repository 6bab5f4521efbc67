"""Optimizers and recurrent layers that torch-npu has operators of its own for, against torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_npu
from torch import nn


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_fused_adamw(amsgrad: bool, maximize: bool) -> None:
    torch.manual_seed(1)
    weights = [torch.randn(5, 3), torch.randn(7)]
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "amsgrad": amsgrad}
    options |= {"maximize": maximize}
    found = [nn.Parameter(w.npu()) for w in weights]
    expected = [nn.Parameter(w.clone()) for w in weights]
    fused = torch.optim.AdamW(found, fused=True, **options)
    plain = torch.optim.AdamW(expected, foreach=False, **options)
    for _ in range(3):
        for one, other in zip(found, expected, strict=True):
            other.grad = torch.randn_like(other)
            one.grad = other.grad.npu()
        fused.step()
        plain.step()
        for one, other in zip(found, expected, strict=True):
            close(one.detach(), other.detach())


@pytest.mark.parametrize("nesterov", [False, True])
def test_apply_adam(nesterov: bool) -> None:
    w, m, v, g = (torch.rand(6, generator=torch.Generator().manual_seed(i)) for i in range(4))
    on_device = tuple(x.npu() for x in (w, m, v))
    torch_npu.npu_apply_adam(
        0.81, 0.9801, 0.1, 0.9, 0.99, 1e-6, g.npu(), False, nesterov, out=on_device
    )
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    rate = 0.1 * (1 - 0.9801) ** 0.5 / (1 - 0.81)
    ahead = 0.9 * m + 0.1 * g if nesterov else m
    for got, expected in zip(on_device, (w - rate * ahead / (v.sqrt() + 1e-6), m, v), strict=True):
        close(got, expected)


def test_apply_adam_w() -> None:
    w, m, v, g = (torch.rand(6, generator=torch.Generator().manual_seed(i)) for i in range(4))
    on_device = tuple(x.npu() for x in (w, m, v))
    numbers = (0.9, 0.99, 0.1, 0.01, 0.9, 0.99, 1e-6)
    torch_npu.npu_apply_adam_w(*numbers, g.npu(), None, False, False, out=on_device)
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    step = 0.1 * (m / (1 - 0.81)) / ((v / (1 - 0.9801)).sqrt() + 1e-6)
    for got, expected in zip(on_device, (w - step - 0.1 * 0.01 * w, m, v), strict=True):
        close(got, expected)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU], ids=["lstm", "gru"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False}, {"batch_first": True}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_recurrent_layers(kind: type[nn.LSTM | nn.GRU], options: dict[str, Any]) -> None:
    torch.manual_seed(2)
    layer = kind(6, 16, **options).eval()
    x = torch.randn(4, 3, 6)
    with torch.no_grad():
        expected, state = layer(x)
        found, found_state = copy.deepcopy(layer).npu()(x.npu())
    torch.testing.assert_close(found.cpu(), expected, rtol=2e-3, atol=2e-3)
    pairs = zip(found_state, state, strict=True) if kind is nn.LSTM else [(found_state, state)]
    for got, wanted in pairs:
        torch.testing.assert_close(got.cpu(), wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell], ids=["lstm", "gru"])
def test_recurrent_cells(kind: type[nn.LSTMCell | nn.GRUCell]) -> None:
    torch.manual_seed(3)
    cell, x = kind(6, 16), torch.randn(3, 6)
    with torch.no_grad():
        expected, found = cell(x), copy.deepcopy(cell).npu()(x.npu())
    pairs = zip(found, expected, strict=True) if kind is nn.LSTMCell else [(found, expected)]
    for got, wanted in pairs:
        torch.testing.assert_close(got.cpu(), wanted, rtol=2e-3, atol=2e-3)


def test_a_layer_by_the_older_interface() -> None:
    torch.manual_seed(5)
    layer, x = nn.LSTM(6, 16), torch.randn(4, 3, 6)
    torch.npu.set_compile_mode(jit_compile=True)
    try:
        with torch.no_grad():
            expected, found = layer(x)[0], copy.deepcopy(layer).npu()(x.npu())[0].cpu()
    finally:
        torch.npu.set_compile_mode(jit_compile=False)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_the_fused_cell() -> None:
    """The step after a cell's two products."""
    torch.manual_seed(4)
    from_input, from_hidden, c = torch.randn(3, 64), torch.randn(3, 64), torch.randn(3, 16)
    biases = torch.randn(2, 64)
    operands = [x.npu() for x in (from_input, from_hidden, c, *biases)]
    h, next_c, _ = torch.ops.aten._thnn_fused_lstm_cell(*operands)
    i, f, g, o = (from_input + from_hidden + biases.sum(0)).chunk(4, -1)
    expected = f.sigmoid() * c + i.sigmoid() * g.tanh()
    close(next_c, expected)
    close(h, o.sigmoid() * expected.tanh())


def test_packed_sequences_are_refused() -> None:
    """torch-npu packs with padding; what its operator then takes is not documented."""
    layer, x = nn.LSTM(6, 16).npu().eval(), torch.randn(4, 3, 6).npu()
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 1]))
    with torch.no_grad(), pytest.raises(RuntimeError, match="packed sequences"):
        layer(packed)
