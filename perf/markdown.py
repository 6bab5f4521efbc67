"""Writes a comparison as Markdown, for a comment or a summary."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perf.statistics import Interval
from perf.verdicts import Finding, overall

SHOWN = 40
"""Changed counters that are listed for each row before the rest is only counted."""


def comment(base: str, head: str, findings: Sequence[Finding], errors: Sequence[str] = ()) -> str:
    """Return the comparison as Markdown.

    Args:
        base: the base's label.
        head: the head's.
        findings: what was compared.
        errors: what could not be compared, and why.
    """
    verdict = "error" if errors and overall(findings) != "failed" else overall(findings)
    what = (
        f"`{head}` against `{base}`, on a **simulated** NPU: counters are those of the simulated "
        "device and compared exactly; host time says nothing about the speed of an NPU."
    )
    lines = [
        f"### Performance: {verdict}",
        "",
        what,
        "",
        "| Cell | Batch | Verdict | Counters | Launches per step | Host time (95 %) |",
        "| --- | ---: | --- | --- | ---: | ---: |",
    ]
    lines += [_row(finding) for finding in findings]
    for finding in findings:
        lines += _details(finding)
    for error in errors:
        lines += ["", "**Not compared:**", "", "```text", error.replace("```", "'''"), "```"]
    return "\n".join(lines) + "\n"


def interval(ratio: Interval) -> str:
    """Return a ratio with its interval, as text."""
    if math.isnan(ratio.low):
        return f"{ratio.mean:.3f} (one pair)"
    return f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def launches(finding: Finding) -> str:
    """Return the launches per decode step of base and head, as text."""
    sides = []
    for run in (finding.base[0], finding.head[0]):
        total = sum(entry["count"] for entry in run["decode"]["launches"].values())
        sides.append(f"{total / max(run['decode']['engine']['steps'], 1):g}")
    return sides[0] if sides[0] == sides[1] else f"{sides[0]} → {sides[1]}"


def _row(finding: Finding) -> str:
    cells = [
        finding.cell,
        str(finding.batch),
        finding.verdict,
        finding.counters,
        launches(finding),
        interval(finding.ratio),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _details(finding: Finding) -> list[str]:
    changes, notes = finding.changes, [f"differs between runs of {t}" for t in finding.unsteady]
    if not finding.same_tokens:
        notes.append("base and head generated different tokens")
    if not changes and not notes:
        return []
    lines = ["", f"**{finding.cell}, batch {finding.batch}**", ""]
    lines += [f"- {'worse: ' if change.worse else ''}{change}" for change in changes[:SHOWN]]
    if len(changes) > SHOWN:
        lines.append(f"- and {len(changes) - SHOWN} more")
    return lines + [f"- {note}" for note in notes[:SHOWN]]
