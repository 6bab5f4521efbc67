"""The comment of a pull request: every kind, what is urgent first, and nothing that breaks out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports import Store, comment, measures
from tests.unit.reports.conftest import CELL, Run, record

SCORE = {
    "port/positions": {"value": 764, "unit": "tokens"},
    "hellaswag/score": {"value": 0.37, "unit": "share"},
    "hellaswag/low": {"value": 0.282, "unit": "share"},
    "hellaswag/high": {"value": 0.468, "unit": "share"},
}

GOLDEN = """\
<!-- ascend-matrix: results -->
### Cells

**1 failed, 2 passed.** Evidence: **simulated**; nothing ran on a real NPU.

| kind | ✘ failed | ⚠ error | ≈ inconclusive | ✔ passed | evidence |
|---|---|---|---|---|---|
| end to end | 1 |  |  | 1 | simulated |
| accuracy |  |  |  | 1 | simulated |
| performance |  |  |  |  | nothing ran |

Of 1 that ran before, 1 no longer pass and 0 pass anew.

#### Not passed

| cell | kind | verdict | before | why |
|---|---|---|---|---|
| `llama/base/cann-9.1.0/a2` | end to end | ✘ failed | passed, 2026-11-20 | \
`GateFailed: token 7 differs` |

<details><summary>end to end: 1 passed</summary>

| cell | measured | evidence | seconds |
|---|---|---|---|
| `qwen3/base/cann-9.1.0/a2` | `equal tokens 128 tokens` | simulated | 7.5 |

</details>

<details><summary>accuracy: 1 passed</summary>

| cell | measured | evidence | seconds |
|---|---|---|---|
| `qwen3/base/cann-9.1.0/a2` | `hellaswag 37.0 % (28.2 % to 46.8 %); port positions 764 tokens` \
| simulated | 7.5 |

</details>

"""


def test_comment_with_two_kinds() -> None:
    llama = "llama/base/cann-9.1.0/a2"
    before = [record(llama, started="2026-11-20T10:00:00Z")]
    shown = [record(), record(llama, verdict="failed"), record(kind="accuracy", metrics=SCORE)]
    assert comment.render(shown, comment.newest(before)) == GOLDEN


def test_nothing_ran() -> None:
    text = comment.render([])
    assert text.startswith(comment.MARKER)
    assert "**No cell left a record**" in text
    assert text.count("nothing ran") == 3


def test_the_newest_record_of_a_cell_and_kind_counts() -> None:
    old = record(verdict="failed", started="2026-11-20T10:00:00Z")
    text = comment.render([record(), old, record(kind="perf", verdict="inconclusive")])
    assert "**1 inconclusive, 1 passed.**" in text
    assert "✘ failed |" not in text.split("Not passed")[1]


def test_hardware_is_told_apart() -> None:
    real = {**record().versions.model_dump(), "cannsim": None, "driver": "25.0"}
    chip = record("llama/base/cann-9.1.0/a2", evidence="hardware", versions=real)
    assert "hardware and simulated" in comment.render([record(), chip])
    assert "real NPU" not in comment.render([chip])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"`a\|b`"),
        (r"a\|b", r"`a\¦b`"),
        ("use `x` here", "`` use `x` here ``"),
        ("```", "```` ``` ````"),
        ("<script>@everyone</script>", "`<script>@everyone</script>`"),
        ("two\nlines\t\x1b[31mred", "`two lines [31mred`"),
        ("", ""),
    ],
)
def test_texts_stay_texts(text: str, shown: str) -> None:
    assert comment.code(text) == shown


def test_a_hostile_message_stays_in_its_cell() -> None:
    message = "`|`<details>\n| a | b |\n</details><!-- @team **x**"
    error = {"class": "Gate|Failed", "message": message}
    text = comment.render([record(verdict="failed", error=error)])
    row = next(line for line in text.splitlines() if line.startswith(f"| `{CELL}`"))
    assert row.endswith(r"| `` Gate\|Failed: `\|`<details> `` |")
    assert "@team" not in text


def test_a_long_comment_is_cut_and_says_so() -> None:
    long = "x" * 500
    many = [
        record(f"m{n}/base/cann-9.1.0/a2", verdict="failed", error={"class": "E", "message": long})
        for n in range(400)
    ]
    passed = [record(f"p{n}/base/cann-9.1.0/a2") for n in range(400)]
    text = comment.render([*many, *passed])
    assert 60_000 < len(text) <= comment.LIMIT < 65_536
    shown = sum(line.startswith(("| `m", "| `p")) for line in text.splitlines())
    assert f"*{800 - shown} rows are left out" in text
    assert text.count("<details>") == text.count("</details>")
    assert "**400 failed, 400 passed.**" in text
    assert len(comment.render([*many[:3], *passed], limit=3000)) <= 3000


def test_measures_carry_their_intervals() -> None:
    metrics = {
        **SCORE,
        "memory": {"value": 3 * 2**29, "unit": "bytes"},
        "copied": {"value": 2048, "unit": "bytes/step"},
        "batch-1/time_ratio": {"value": 1.02, "unit": "head/base"},
        "batch-1/time_ratio_low": {"value": 0.99, "unit": "head/base"},
        "batch-1/time_ratio_high": {"value": 1.051, "unit": "head/base"},
        "batch-8/time_ratio": {"value": 1.02, "unit": "head/base"},
        "batch-8/time_ratio_low": {"value": 0.99, "unit": "head/base"},
    }
    assert [str(m) for m in measures.measures(record(metrics=metrics))] == [
        "port positions 764 tokens",
        "hellaswag 37.0 % (28.2 % to 46.8 %)",
        "memory 1.5 GiB",
        "copied 2 KiB/step",
        "batch-1 time ratio 1.02 head/base (0.99 to 1.051)",
        "batch-8 time ratio 1.02 head/base",
        "batch-8 time ratio low 0.99 head/base",
    ]
    assert measures.main(record(metrics=metrics), 1)[0].name == "hellaswag"


# ------------------------------------------------------------------------------------ command line


def test_comment_since_a_date_compares_with_before(run: Run, store: Store, tmp_path: Path) -> None:
    store.add(record(started="2026-11-19T10:00:00Z"))
    store.add(record(verdict="failed", started="2026-11-21T10:00:00Z"))
    out = tmp_path / "deep" / "comment.md"
    code, _, _ = run("comment", "--store", store.name, "--since", "2026-11-20", "--out", out)
    assert code == 0
    assert "| ✘ failed | passed, 2026-11-19 |" in out.read_text()


def test_comment_of_a_run(run: Run, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"cells": [{"record": record(kind="perf").document()}]}))
    code, text, _ = run("comment", "--store", store.name, "--run", file)
    assert code == 0
    assert "performance: 1 passed" in text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file"),
        ("{", "holds no outcome of a run"),
        ('{"cells": [{"id": "x"}]}', "KeyError: 'record'"),
        ('{"cells": [{"record": {"schema": 1}}]}', "cells[0].record: not a valid record"),
    ],
)
def test_files_that_are_no_run(
    run: Run, store: Store, tmp_path: Path, content: str | None, told: str
) -> None:
    file = tmp_path / "run.json"
    if content is not None:
        file.write_text(content)
    code, _, error = run("comment", "--store", store.name, "--run", file)
    assert code == 2
    assert told in error


def test_a_date_that_is_none(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("comment", "--since", "yesterday")
    assert ended.value.code == 2
    assert "'yesterday' is no date" in capsys.readouterr().err


def test_cells_lead_to_the_site() -> None:
    other = "llama/base/cann-9.1.0/a2"
    records = [record(CELL), record(other, verdict="failed")]
    text = comment.render(records, site="https://x.example/s/")
    for cell in (CELL, other):
        assert f"[`{cell}`](https://x.example/s/matrix.html#{cell})" in text


def test_strange_cells_stay_one_link() -> None:
    strange = "a)b/[x](y)/cann-9.1.0/<z>"
    text = comment.render([record(strange)], site="https://x.example")
    assert "(https://x.example/matrix.html#a%29b/%5Bx%5D%28y%29/cann-9.1.0/%3Cz%3E)" in text
