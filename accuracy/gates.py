"""The gates as pure functions: tokens against a reference, and items against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy import stats

from matrix import ChangeGate, PortGate

Verdict = Literal["passed", "failed", "inconclusive"]

# ------------------------------------------------------------------------------ against a reference


@dataclass(frozen=True)
class Position:
    """One token of one sequence, as the engine and the reference saw it. Logprobs are in nats.

    Attributes:
        prompt: number of the prompt.
        index: place of the token in the sequence.
        phase: "prefill" for a token of the prompt, "decode" for one that the engine generated.
        token: the token.
        engine: its logprob by the engine.
        reference: its logprob by the reference, which read the same tokens before it.
        engine_top: the engine's most likely tokens with their logprobs, the best first.
        reference_at_top: the reference's logprobs of the same tokens.
        reference_best: the reference's most likely token.
    """

    prompt: int
    index: int
    phase: str
    token: int
    engine: float
    reference: float
    engine_top: tuple[tuple[int, float], ...]
    reference_at_top: tuple[float, ...]
    reference_best: int
    reference_best_logprob: float

    @property
    def finite(self) -> bool:
        """Whether every logprob is a number."""
        tops = [logprob for _, logprob in self.engine_top]
        return all(map(math.isfinite, [self.engine, self.reference, *tops, *self.reference_at_top]))

    @property
    def difference(self) -> float:
        """How far the two are apart about the token."""
        return abs(self.engine - self.reference)

    @property
    def lost(self) -> float:
        """How much less likely the engine's best token is, to the reference, than its own best."""
        best = self.engine_top[0][0]
        if best == self.reference_best:
            return 0.0
        return self.reference_best_logprob - self.reference_at_top[0]

    @property
    def divergence(self) -> float:
        """Kullback-Leibler divergence of the engine from the reference, from below.

        Taken over the engine's most likely tokens and one outcome for all others: merging
        outcomes never increases the divergence (Cover and Thomas, Elements of Information Theory,
        section 2.7, the log-sum inequality).
        """
        ours = [math.exp(logprob) for _, logprob in self.engine_top]
        theirs = [math.exp(logprob) for logprob in self.reference_at_top]
        total = sum(
            p * (r - q)
            for p, r, (_, q) in zip(theirs, self.reference_at_top, self.engine_top, strict=True)
        )
        rest_theirs, rest_ours = 1 - sum(theirs), 1 - sum(ours)
        # Below this the rest is rounding of float32 logprobs, and says nothing.
        if min(rest_theirs, rest_ours) > 1e-5:
            total += rest_theirs * math.log(rest_theirs / rest_ours)
        return max(0.0, total)


@dataclass(frozen=True)
class Port:
    """What the port gate found.

    Attributes:
        verdict: passed or failed.
        reasons: why it failed, one line each.
        positions: how many tokens were compared.
        largest: largest difference of a token's logprob, nats.
        mean_divergence: mean Kullback-Leibler divergence over the engine's likely tokens, nats.
        agreement: share of positions at which both hold the same token most likely, ties apart.
        first_differing: where the engine first generated another token than the reference's best;
            {"prompt", "index", "lost"}, or None.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    positions: int
    largest: float
    mean_divergence: float
    agreement: float
    first_differing: dict[str, Any] | None


def judge_port(positions: Sequence[Position], gate: PortGate) -> Port:
    """Judge the engine's logprobs by those of the reference.

    Raises:
        ValueError: nothing was compared; that is no pass.
    """
    if not positions:
        raise ValueError("no token was compared, so nothing is known about the engine")
    finite = [position for position in positions if position.finite]
    odd = len(positions) - len(finite)
    worst = max(finite, key=lambda p: p.difference, default=None)
    largest = worst.difference if worst else math.inf
    divergence = sum(p.divergence for p in finite) / len(finite) if finite else math.inf
    agreement = sum(p.lost <= gate.tie for p in finite) / len(positions)
    first = next((p for p in finite if p.phase == "decode" and p.lost > gate.tie), None)
    reasons = []
    if odd:
        reasons.append(f"{odd} of {len(positions)} positions hold logprobs that are no numbers")
    if worst and largest > gate.logprob:
        reasons.append(
            f"largest difference of a logprob {largest:.3g} nats at prompt {worst.prompt}, token "
            f"{worst.index} ({worst.phase}); allowed are {gate.logprob:g}"
        )
    if divergence > gate.divergence:
        reasons.append(f"mean divergence {divergence:.3g} nats; allowed are {gate.divergence:g}")
    if agreement < gate.agreement:
        reasons.append(
            f"the most likely token is the same at {agreement:.2%} of the positions; "
            f"required are {gate.agreement:.2%}"
        )
    if first:
        reasons.append(
            f"greedy generation differs first at prompt {first.prompt}, token {first.index}, where "
            f"the reference's choice is more likely by {first.lost:.3g} nats"
        )
    where = {"prompt": first.prompt, "index": first.index, "lost": first.lost} if first else None
    verdict: Verdict = "failed" if reasons else "passed"
    return Port(verdict, tuple(reasons), len(positions), largest, divergence, agreement, where)


# ------------------------------------------------------------------------------- against a baseline

Outcomes = Mapping[tuple[str, str], bool]
"""(task, hash of the item) to whether it was answered correctly."""


@dataclass(frozen=True)
class Paired:
    """Items answered by both runs.

    Attributes:
        items: how many.
        lost: right in the baseline, wrong now.
        won: wrong in the baseline, right now.
        p: chance of so many losses or more among the flips if both ways are equally likely.
    """

    items: int
    lost: int
    won: int
    p: float

    @property
    def drop(self) -> float:
        """By how much the score fell, as a share of the items."""
        return (self.lost - self.won) / self.items


@dataclass(frozen=True)
class Change:
    """What the change gate found.

    Attributes:
        verdict: passed, failed or inconclusive.
        reasons: why it did not pass, one line each.
        pooled: all items together.
        tasks: task to its items; `p` is adjusted for looking at several (Holm).
        at_most: upper confidence bound of the true drop, as a share.
        detectable: the drop that so many items show with the gate's power, as a share; None where
            no drop would be seen.
        unpaired: items that only one of the two runs answered.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    pooled: Paired
    tasks: dict[str, Paired] = field(default_factory=dict)
    at_most: float = 0.0
    detectable: float | None = None
    unpaired: int = 0

    @property
    def flips(self) -> int:
        """Items that changed, either way."""
        return self.pooled.lost + self.pooled.won


def judge_change(baseline: Outcomes, now: Outcomes, gate: ChangeGate) -> Change:
    """Judge a run by a baseline that answered the same items.

    Failed: more items were lost than chance explains, in all or in one task (exact one-sided
    McNemar test, p adjusted by Holm). Passed: a drop above the tolerated one is excluded.
    Inconclusive: neither, or the two runs did not answer the same items.

    Raises:
        ValueError: they have no item in common.
    """
    common = sorted(baseline.keys() & now.keys())
    if not common:
        raise ValueError("the two runs have no item in common")
    groups = {task: [key for key in common if key[0] == task] for task, _ in common}
    raw = [pair(baseline, now, keys) for keys in (common, *groups.values())]
    adjusted = holm([paired.p for paired in raw])
    pooled, *each = [
        Paired(paired.items, paired.lost, paired.won, p)
        for paired, p in zip(raw, adjusted, strict=True)
    ]
    tasks = dict(zip(groups, each, strict=True))
    bound = largest_drop(pooled, gate.alpha)
    unpaired = len(baseline.keys() ^ now.keys())
    reasons, verdict = _decide(pooled, tasks, bound, unpaired, gate)
    detectable = detectable_drop(len(common), gate)
    return Change(verdict, reasons, pooled, tasks, bound, detectable, unpaired)


def _decide(
    pooled: Paired, tasks: Mapping[str, Paired], bound: float, unpaired: int, gate: ChangeGate
) -> tuple[tuple[str, ...], Verdict]:
    losses = [
        f"{name}: {paired.lost} items lost and {paired.won} won of {paired.items}; "
        f"by chance so once in {1 / paired.p:,.0f} (p = {paired.p:.2g})"
        for name, paired in {"all tasks": pooled, **tasks}.items()
        if paired.p < gate.alpha
    ]
    if losses:
        return tuple(losses), "failed"
    doubts = []
    if unpaired:
        doubts.append(f"{unpaired} items were answered by only one of the two runs")
    if bound > gate.tolerated:
        doubts.append(
            f"a drop of up to {bound:.1%} is not excluded by {pooled.items} items with "
            f"{pooled.lost} lost and {pooled.won} won; tolerated are {gate.tolerated:.1%}"
        )
    return tuple(doubts), "inconclusive" if doubts else "passed"


def pair(baseline: Outcomes, now: Outcomes, keys: Sequence[tuple[str, str]]) -> Paired:
    """Return the flips among `keys` with their exact one-sided p (McNemar, Psychometrika 12, 1947).

    Only items that changed say anything about a change; if nothing is worse, each of them is as
    likely to be won as lost.
    """
    lost = sum(baseline[key] and not now[key] for key in keys)
    won = sum(now[key] and not baseline[key] for key in keys)
    flips = lost + won
    p = float(stats.binomtest(lost, flips, 0.5, alternative="greater").pvalue) if flips else 1.0
    return Paired(len(keys), lost, won, p)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm, Scandinavian J. of Statistics 6, 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [1.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def largest_drop(paired: Paired, alpha: float) -> float:
    """Return an upper bound of the true drop, at confidence 1 - alpha or better.

    The share lost is bounded from above and the share won from below, each by Clopper and Pearson
    (Biometrika 26, 1934) at half of alpha, so that both hold together (Bonferroni).
    """
    level = 1 - alpha  # one side of an interval at this level is left out with alpha / 2
    lost = stats.binomtest(paired.lost, paired.items).proportion_ci(level, method="exact").high
    won = stats.binomtest(paired.won, paired.items).proportion_ci(level, method="exact").low
    return max(0.0, float(lost - won))


def power(items: int, drop: float, flips: float, alpha: float) -> float:
    """Return the chance that the exact one-sided McNemar test sees a drop.

    Items flip without a cause with chance `flips`, equally often both ways, and `drop` more are
    lost. The number of flips m is binomial; given m, the number lost is binomial too, and the test
    rejects from its critical value on (exact unconditional power: Duffy, Biometrics 40, 1984).
    """
    import numpy as np

    changing = flips + drop
    m = np.arange(items + 1)
    critical = stats.binom.isf(alpha, m, 0.5) + 1
    seen = stats.binom.sf(critical - 1, m, (flips / 2 + drop) / changing)
    return float(np.sum(stats.binom.pmf(m, items, changing) * seen))


def detectable_drop(items: int, gate: ChangeGate) -> float | None:
    """Return the smallest drop that so many items show with the gate's power; None if none is."""
    low, high = 0.0, 1.0 - gate.flips
    if power(items, high, gate.flips, gate.alpha) < gate.power:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        if power(items, middle, gate.flips, gate.alpha) < gate.power:
            low = middle
        else:
            high = middle
    return high


def interval(correct: int, items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share (Wilson, J. of the American Statistical Assoc. 22, 1927)."""
    found = stats.binomtest(correct, items).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)
