"""Random numbers: their distribution, their dependence on the seed, and their independence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

N = 20_000
MEAN_OF = 6 / N**0.5
"""Six standard errors of the mean of N numbers of deviation 1."""

Draw = Callable[[], torch.Tensor]
DRAWS: dict[str, tuple[Draw, float, float]] = {
    "rand": (lambda: torch.rand(N, device="npu"), 1 / 2, 1 / 12),
    "randn": (lambda: torch.randn(N, device="npu"), 0, 1),
    "randn_bfloat16": (lambda: torch.randn(N, device="npu", dtype=torch.bfloat16), 0, 1),
    "normal_": (lambda: torch.empty(N, device="npu").normal_(3, 2), 3, 4),
    "normal_of_tensors": (
        lambda: torch.normal(torch.ones(N, device="npu"), torch.ones(N, device="npu")),
        1,
        1,
    ),
    "uniform_": (lambda: torch.empty(N, device="npu").uniform_(-1, 3), 1, 16 / 12),
    "exponential_": (lambda: torch.empty(N, device="npu").exponential_(2), 1 / 2, 1 / 4),
    "randint": (lambda: torch.randint(0, 7, (N,), device="npu"), 3, 4),
    "bernoulli_": (lambda: torch.empty(N, device="npu").bernoulli_(0.3), 0.3, 0.21),
    "bernoulli": (lambda: torch.bernoulli(torch.full((N,), 0.3, device="npu")), 0.3, 0.21),
    "dropout": (lambda: F.dropout(torch.ones(N, device="npu"), 0.5, training=True), 1, 1),
    "multinomial": (
        lambda: torch.multinomial(torch.tensor([0.5, 0.0, 0.5], device="npu"), N, replacement=True),
        1,
        1,
    ),
}
"""Each with the mean and the variance of its distribution."""


@pytest.mark.parametrize("name", DRAWS)
def test_distribution(name: str) -> None:
    draw, mean, variance = DRAWS[name]
    torch.manual_seed(11)
    x = draw().float().cpu()
    assert abs(x.mean().item() - mean) < MEAN_OF * variance**0.5
    # The variance of x**2 is a few times the fourth power of the deviation for all of these.
    assert abs(x.var().item() - variance) < 5 * MEAN_OF * variance


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_gives_the_same_numbers_and_a_second_call_gives_others(name: str) -> None:
    draw = DRAWS[name][0]
    torch.npu.manual_seed(5)
    first, second = draw().cpu(), draw().cpu()
    torch.npu.manual_seed(5)
    assert torch.equal(draw().cpu(), first)
    assert torch.equal(draw().cpu(), second)
    assert not torch.equal(first, second)
    torch.npu.manual_seed(6)
    assert not torch.equal(draw().cpu(), first)


def test_a_generator_has_a_sequence_of_its_own() -> None:
    one, two = (torch.Generator(device="npu").manual_seed(9) for _ in range(2))
    first = torch.randn(50, device="npu", generator=one)
    torch.randn(50, device="npu")
    assert torch.equal(torch.randn(50, device="npu", generator=two), first)
    assert not torch.equal(torch.randn(50, device="npu", generator=two), first)


def test_the_state_of_the_generator_can_be_restored() -> None:
    torch.npu.manual_seed(1)
    state = torch.npu.get_rng_state()
    first = torch.rand(20, device="npu")
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.rand(20, device="npu"), first)


def test_randperm_is_a_permutation() -> None:
    x = torch.randperm(100, device="npu")
    assert torch.equal(x.sort().values.cpu(), torch.arange(100))
    assert not torch.equal(x.cpu(), torch.arange(100))


def test_multinomial_without_replacement_never_repeats() -> None:
    x = torch.multinomial(torch.ones(8, 30, device="npu"), 30)
    assert torch.equal(x.sort(-1).values.cpu(), torch.arange(30).expand(8, 30))


def test_uniform_stays_inside_its_bounds() -> None:
    x = torch.empty(N, device="npu").uniform_(2, 3)
    assert bool((x >= 2).all())
    assert bool((x < 3).all())
