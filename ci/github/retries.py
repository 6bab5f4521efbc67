"""Whether and when a request is repeated: GitHub's rules for rate limits and faults. Pure.

The rules are those of GitHub's pages "Rate limits for the REST API" and "Best practices for using
the REST API": first `retry-after`, then `x-ratelimit-reset` when nothing remains, else at least a
minute, growing, for a secondary limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

FAULTS = frozenset({500, 502, 503, 504})
"""Statuses after which a request may or may not have been carried out."""

FIRST_WAIT_S = 1.0
"""Seconds before the first repetition after a fault; doubled for each further one."""

SECONDARY_WAIT_S = 60.0
"""Seconds before the first repetition after a secondary limit that names no time."""

MAX_ATTEMPTS = 5
"""How often one request is sent at most."""


@dataclass(frozen=True)
class Wait:
    """Send the request again after a time.

    Args:
        seconds: How long to wait.
        reason: Why; a limit was certainly not carried out, a fault may have been.
    """

    seconds: float
    reason: Literal["limit", "fault"]


def decide(
    status: int | None, headers: Mapping[str, str], message: str, attempt: int, now: float
) -> Wait | None:
    """What to do after an answer; None when the answer is to be taken as it is.

    Args:
        status: The HTTP status; None when no answer came.
        headers: The answer's headers, whatever the case of their names.
        message: GitHub's own words, by which a secondary limit is told from a missing permission.
        attempt: How often the request was sent so far, from 1.
        now: Seconds since the epoch here, for an answer without a date.
    """
    named = {name.lower(): value for name, value in headers.items()}
    if status is None or status in FAULTS:
        return Wait(_seconds(named) or FIRST_WAIT_S * 2 ** (attempt - 1), "fault")
    if status not in (403, 429):
        return None
    asked = _seconds(named)
    if asked is not None:
        return Wait(asked, "limit")
    if named.get("x-ratelimit-remaining") == "0":
        reset = _number(named.get("x-ratelimit-reset"))
        if reset is not None:
            # One second more, since the reset is in whole seconds; GitHub's clock, not ours.
            return Wait(max(0.0, reset - _date(named, now)) + 1.0, "limit")
    if status == 429 or "rate limit" in message.lower():
        return Wait(SECONDARY_WAIT_S * 2 ** (attempt - 1), "limit")
    return None


def _seconds(headers: Mapping[str, str]) -> float | None:
    number = _number(headers.get("retry-after"))
    return None if number is None else max(0.0, number)


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and text.strip().isdigit() else None


def _date(headers: Mapping[str, str], now: float) -> float:
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return now
