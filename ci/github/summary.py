"""The text of a pull request's comment: what the records of a run say, as Markdown. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports.record import Record

ORDER = ("failed", "error", "inconclusive", "passed")
"""Verdicts, the most urgent first."""

SHOWN = 30
"""Cells that are listed before the rest is only counted."""


def render(records: Sequence[Record], unreadable: int, run: Mapping[str, Any]) -> str:
    """The results of a run.

    Nothing in a record is trusted, since a pull request's own code wrote it: texts are cut short
    and shown as they are, so that they neither format the comment nor call anybody.

    Args:
        records: The records, in any order.
        unreadable: How many files held no valid record.
        run: The run, as the API describes it.
    """
    commit = str(run["head_sha"])[:12]
    lines = [f"### Cells at {commit}", "", f"{_counts(records)} · [run]({run['html_url']})"]
    if unreadable:
        lines.append(f"\n{unreadable} files of the run held no valid records.")
    if any(record.evidence == "simulated" for record in records):
        lines.append("\nEvidence: simulated NPUs, no hardware.")
    urgent = [record for record in _sorted(records) if record.verdict != "passed"]
    if urgent:
        lines += ["", *_table(urgent[:SHOWN], reasons=True)]
        if len(urgent) > SHOWN:
            lines += ["", f"and {len(urgent) - SHOWN} more"]
    passed = [record for record in _sorted(records) if record.verdict == "passed"]
    if passed:
        lines += ["", "<details><summary>What passed</summary>", "", *_table(passed, reasons=False)]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _counts(records: Sequence[Record]) -> str:
    if not records:
        return "**No cell left a record**; see why in the logs"
    counts = Counter[str](record.verdict for record in records)
    parts = [f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict]]
    return f"**{', '.join(parts)}**"


def _sorted(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda r: (ORDER.index(r.verdict), r.kind, r.cell))


def _table(records: Sequence[Record], *, reasons: bool) -> list[str]:
    last = "reason" if reasons else "seconds"
    lines = [f"| cell | kind | verdict | {last} |", "|---|---|---|---|"]
    for record in records:
        told = _reason(record) if reasons else f"{record.seconds:.1f}"
        lines.append(f"| {code(record.cell)} | {record.kind} | {record.verdict} | {told} |")
    return lines


def _reason(record: Record) -> str:
    if record.error is None:
        return ""
    first = (record.error.message.strip().splitlines() or [""])[0]
    return code(f"{record.error.class_}: {first}")


def code(text: str, limit: int = 200) -> str:
    """A text of unknown origin as code, in one line of a table."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    # GitHub splits a table's rows at bars even within code, and no backslash escapes a backtick.
    shown = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in shown))
    return f"`{shown.replace('`', chr(39)).replace('|', '¦').strip() or ' '}`"
