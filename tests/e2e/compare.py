"""Pure comparisons of an engine's output with a reference: they raise, or say how close it was."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.e2e.context import GateFailed

LOGPROB_TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.35, "float16": 0.05}
"""Largest allowed |engine - reference| of one logprob (nats), by the dtype that the engine ran in.

The reference runs in float32 on the same weights, so that float32 differs by the order of summation
only (about 1e-5 is seen). For bfloat16, transformers itself, run in bfloat16 on the CPU, is up to
0.13 from its own float32 over 128 values of the smallest real model and of the stand-ins, and 0.03
on average; engines that also round the logits come to 0.21. float16 has 8 times finer steps.
"""

MEAN_TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.007}
"""Largest allowed mean of |engine - reference| (nats): catches a bias that single values hide."""

TIE_GAP: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.35, "float16": 0.05}
"""A gap between the two best logits below which rounding may decide which token is the best."""


@dataclass(frozen=True)
class Agreement:
    """How far logprobs were apart, in nats."""

    values: int
    largest: float
    mean: float


def equal_tokens(
    engine: Sequence[Sequence[int]], reference: Sequence[Sequence[int]], what: str = "greedy tokens"
) -> int:
    """Require that both hold the same tokens at every position of every sequence.

    Returns:
        The number of tokens compared.

    Raises:
        GateFailed: with the first difference, or because nothing was compared.
    """
    if len(engine) != len(reference):
        raise GateFailed(f"{what}: {len(engine)} sequences; the reference has {len(reference)}")
    for index, (ours, theirs) in enumerate(zip(engine, reference, strict=True)):
        if list(ours) == list(theirs):
            continue
        position = first_difference(ours, theirs)
        raise GateFailed(
            f"{what} of prompt {index} differ from position {position} on: "
            f"engine {list(ours[position : position + 6])}, "
            f"reference {list(theirs[position : position + 6])} "
            f"(lengths {len(ours)} and {len(theirs)})"
        )
    count = sum(len(tokens) for tokens in engine)
    if count == 0:
        raise GateFailed(f"{what}: there was no token to compare")
    return count


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return the first position at which the two differ, or the shorter length."""
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def equal_tokens_up_to_ties(
    engine: Sequence[Sequence[int]],
    reference: Sequence[Sequence[int]],
    gaps: Sequence[Sequence[float]],
    dtype: str,
) -> int:
    """Require equal tokens up to the first near tie of the reference at which they part.

    Args:
        engine: tokens of each sequence.
        reference: tokens of each sequence.
        gaps: the reference's gap between its two best logits at each position (nats).
        dtype: what the engine ran in, for the size of a near tie.

    Returns:
        The number of equal tokens before the sequences part.

    Raises:
        GateFailed: they part where the reference is certain.
    """
    equal = 0
    for index, (ours, theirs, gap) in enumerate(zip(engine, reference, gaps, strict=True)):
        position = first_difference(ours, theirs)
        equal += position
        if position < len(theirs) and gap[position] > TIE_GAP[dtype]:
            raise GateFailed(
                f"prompt {index} differs at position {position}, where the reference prefers its "
                f"token by {gap[position]:.3f} nats (a tie in {dtype} is up to {TIE_GAP[dtype]})"
            )
    if equal == 0:
        raise GateFailed("no token agrees with the reference")
    return equal


def close_logprobs(
    engine: Sequence[float],
    reference: Sequence[float],
    dtype: str,
    what: str = "logprobs",
) -> Agreement:
    """Require that logprobs of the same tokens agree within the tolerances of `dtype`.

    Raises:
        GateFailed: one value or the mean is too far off, not a number, or nothing was compared.
    """
    if len(engine) != len(reference) or not engine:
        raise GateFailed(f"{what}: {len(engine)} values; the reference has {len(reference)}")
    differences = [abs(a - b) for a, b in zip(engine, reference, strict=True)]
    if not all(math.isfinite(value) for value in [*engine, *differences]):
        raise GateFailed(f"{what}: a value is not a finite number")
    largest, mean = max(differences), math.fsum(differences) / len(differences)
    if largest > LOGPROB_TOLERANCE[dtype]:
        at = differences.index(largest)
        raise GateFailed(
            f"{what} differ by {largest:.6f} at position {at} (engine {engine[at]:.6f}, reference "
            f"{reference[at]:.6f}); {dtype} allows {LOGPROB_TOLERANCE[dtype]}"
        )
    if mean > MEAN_TOLERANCE[dtype]:
        raise GateFailed(
            f"{what} differ by {mean:.6f} on average over {len(differences)} values; {dtype} "
            f"allows {MEAN_TOLERANCE[dtype]}"
        )
    return Agreement(len(differences), largest, mean)


def close_top(
    engine: Sequence[Mapping[int, float]],
    reference: Sequence[Sequence[tuple[int, float]]],
    count: int,
    dtype: str,
    what: str = "top logprobs",
) -> Agreement:
    """Require the same most likely tokens with the same logprobs at every position.

    Two tokens may change places, and the last ones may be others, where the reference's logprobs
    are closer to each other than the tolerance.

    Args:
        engine: at each position, token to logprob; at least `count` of them.
        reference: at each position, (token, logprob) from the most likely on; more than `count`.
        count: how many to compare.
        dtype: what the engine ran in.
        what: what the numbers are, for the message.

    Raises:
        GateFailed: fewer than `count` tokens, a token that does not belong there, or a value off.
    """
    if len(engine) != len(reference):
        raise GateFailed(f"{what}: {len(engine)} positions; the reference has {len(reference)}")
    ours: list[float] = []
    theirs: list[float] = []
    for position, (found, expected) in enumerate(zip(engine, reference, strict=True)):
        best = sorted(found.items(), key=lambda item: -item[1])[:count]
        if len(best) < count:
            raise GateFailed(f"{what}: {len(best)} tokens at position {position}, not {count}")
        known = dict(expected)
        floor = expected[count - 1][1] - LOGPROB_TOLERANCE[dtype]
        for token, logprob in best:
            if known.get(token, -math.inf) < floor:
                raise GateFailed(
                    f"{what}: token {token} is among the best {count} at position {position} "
                    f"({logprob:.4f}), and not in the reference ({known.get(token)})"
                )
            ours.append(logprob)
            theirs.append(known[token])
    return close_logprobs(ours, theirs, dtype, what)


def close_vectors(
    engine: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], dtype: str
) -> tuple[float, float]:
    """Require that each pair of vectors is the same up to rounding.

    Returns:
        The smallest cosine and the largest absolute difference of one component.

    Raises:
        GateFailed: other sizes, a cosine or a component off.
    """
    least_cosine = {"float32": 1 - 1e-5, "bfloat16": 1 - 5e-3, "float16": 1 - 5e-4}[dtype]
    most_apart = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-3}[dtype]
    if len(engine) != len(reference) or not engine:
        raise GateFailed(f"{len(engine)} vectors; the reference has {len(reference)}")
    cosines, differences = [], []
    for index, (ours, theirs) in enumerate(zip(engine, reference, strict=True)):
        if len(ours) != len(theirs):
            raise GateFailed(f"vector {index} has {len(ours)} components, not {len(theirs)}")
        cosine = _dot(ours, theirs) / math.sqrt(_dot(ours, ours) * _dot(theirs, theirs))
        difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        # Written so that a value that is not a number fails, too.
        if not (cosine >= least_cosine and difference <= most_apart):
            raise GateFailed(
                f"vector {index}: cosine {cosine:.7f} (at least {least_cosine}), largest "
                f"difference {difference:.6f} (at most {most_apart}, {dtype})"
            )
        cosines.append(cosine)
        differences.append(difference)
    return min(cosines), max(differences)


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def digest(tokens: Sequence[int]) -> str:
    """Return a short hash of a token sequence, for records."""
    return hashlib.sha256(",".join(map(str, tokens)).encode()).hexdigest()[:16]
