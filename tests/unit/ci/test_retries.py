"""When a request is repeated: GitHub's rules, without a network."""

from __future__ import annotations

import pytest

from ci.github import retries
from ci.github.retries import Wait

NOW = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
"""The same moment on GitHub's clock."""


@pytest.mark.parametrize(
    ("status", "headers", "message", "attempt", "expected"),
    [
        (200, {}, "", 1, None),
        (404, {"Retry-After": "5"}, "", 1, None),
        (429, {"Retry-After": "5"}, "", 1, Wait(5, "limit")),
        (403, {"retry-after": "0"}, "", 1, Wait(0, "limit")),
        (429, {}, "", 1, Wait(60, "limit")),
        (429, {}, "", 3, Wait(240, "limit")),
        (403, {}, "You have exceeded a secondary rate limit.", 2, Wait(120, "limit")),
        (403, {}, "Resource not accessible by integration", 1, None),
        (403, {"X-RateLimit-Remaining": "12"}, "Must have admin rights", 1, None),
        (502, {}, "", 1, Wait(1, "fault")),
        (504, {}, "", 4, Wait(8, "fault")),
        (503, {"Retry-After": "20"}, "", 1, Wait(20, "fault")),
        (None, {}, "", 2, Wait(2, "fault")),
        (501, {}, "", 1, None),
    ],
)
def test_what_follows_an_answer(
    status: int | None,
    headers: dict[str, str],
    message: str,
    attempt: int,
    expected: Wait | None,
) -> None:
    assert retries.decide(status, headers, message, attempt, NOW) == expected


@pytest.mark.parametrize("here", [NOW, NOW - 3600, NOW + 3600])
def test_the_reset_is_counted_on_githubs_clock(here: float) -> None:
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 30), "Date": DATE}
    assert retries.decide(403, headers, "", 1, here) == Wait(31, "limit")


@pytest.mark.parametrize("reset", ["soon", None])
def test_a_limit_without_a_reset_waits_a_minute(reset: str | None) -> None:
    headers = {
        "x-ratelimit-remaining": "0",
        **({} if reset is None else {"x-ratelimit-reset": reset}),
    }
    assert retries.decide(429, headers, "", 1, NOW) == Wait(60, "limit")


def test_a_reset_in_the_past_and_a_date_that_is_none() -> None:
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "5", "date": "today"}
    assert retries.decide(403, headers, "", 1, NOW) == Wait(1, "limit")
