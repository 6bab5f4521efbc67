"""What a person sees of a run: the table, the summary, and the parts that are cut."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from ci import display, plan
from ci.runners import CellError, Result, Verdict

from .conftest import make_cell


def result(
    name: str, verdict: Verdict = "passed", error: CellError | None = None, **proof: object
) -> Result:
    made = plan.make([make_cell(feature=name)], {f"tiny/{name}/cann-9.1.0/a2": 1.0})
    (group,) = made.groups
    return Result(
        group.jobs[0],
        group,
        verdict,
        datetime(2026, 1, 1, tzinfo=UTC),
        12.34,
        error,
        proof=proof,
        timings={"import": 0.0, "engine_start": 3.25},
    )


def printed(*results: Result) -> str:
    out = io.StringIO()
    Console(file=out, width=display.LOG_COLUMNS).print(display.table(results, "simulated"))
    return out.getvalue()


def test_a_row_says_where_the_seconds_went() -> None:
    assert "passed   simulated     0.0     3.2         -     12.3  hits=7" in printed(
        result("base", hits=7)
    )


def test_the_proof_begins_with_what_sets_the_cell_apart() -> None:
    text = printed(result("a", platform="npu", hits=7), result("b", platform="npu", drafts=3))
    assert "hits=7, platform=npu" in text
    assert "drafts=3, platform=npu" in text


def test_what_went_wrong_is_the_first_line_cut_to_the_width() -> None:
    error = CellError("GateFailed", f"token 3 differs {'x' * 200}\nsecond line")
    text = printed(result("a", "failed", error))
    assert "GateFailed: token 3 differs" in text
    assert "…" in text
    assert "second line" not in text


def test_text_in_brackets_is_no_markup() -> None:
    assert "shape=[red]" in printed(result("a", shape="[red]"))


@pytest.mark.parametrize(
    ("results", "text"),
    [
        ([], "nothing ran (simulated) in 5 s"),
        ([result("a"), result("b")], "2 passed (simulated) in 5 s"),
        (
            [result("a"), result("b", "failed"), result("c", "error"), result("d", "inconclusive")],
            "1 passed, 1 failed, 1 error, 1 inconclusive (simulated) in 5 s",
        ),
    ],
)
def test_the_summary_counts_verdicts_and_names_the_evidence(
    results: list[Result], text: str
) -> None:
    assert display.summary(results, 5.0, "simulated") == text
