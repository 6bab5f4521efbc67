"""Renders the support tables as Markdown, for a README, a summary of a run or a comment."""

from __future__ import annotations

from reports.statuses import MEANINGS, SYMBOLS, Status
from reports.support import DISCLAIMER, Support, Table


def render(support: Support) -> str:
    """Return all tables with date, evidence, legend and the reasons of unsupported cells."""
    reasons = _reasons(support)
    release = support.matrix.release
    versions = f"vLLM {release.vllm}, torch-npu {release.torch_npu}"
    parts = [
        f"Support on {support.now:%Y-%m-%d}, release {release.name} ({versions}).",
        *([] if support.on_hardware else [f"**{DISCLAIMER}**"]),
        *(_table(table, reasons) for table in support.tables),
        _legend(support, reasons),
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: Table, reasons: dict[str, int]) -> str:
    shared = {s.evidence for _, row in table.rows for s in row.values() if s.evidence}
    header = ["Model", *(feature.title for feature in table.features)]
    lines = [
        f"### {table.title}",
        "",
        f"Evidence: **{table.evidence}**",
        "",
        _row(header),
        _row(["---"] * len(header)),
    ]
    for model, row in table.rows:
        cells = [_cell(row[f.name], reasons, mixed=len(shared) > 1) for f in table.features]
        lines.append(_row([model.title, *cells]))
    return "\n".join(lines)


def _cell(status: Status, reasons: dict[str, int], *, mixed: bool) -> str:
    text = status.label
    if status.state == "unsupported":
        return f"{text} [{reasons[status.reason]}]"
    if status.record is not None:
        text += f" {status.record.started:%Y-%m-%d}"
        if mixed:
            text += f" ({status.evidence})"
    return text


def _reasons(support: Support) -> dict[str, int]:
    """Number the reasons of unsupported cells in the order of their appearance."""
    found = (s.reason for s in support.statuses.values() if s.state == "unsupported")
    return {reason: number for number, reason in enumerate(dict.fromkeys(found), start=1)}


def _legend(support: Support, reasons: dict[str, int]) -> str:
    days = support.policy.max_age.days
    lines = [
        f"- {SYMBOLS[state]} {state.replace('-', ' ')}: {text}" for state, text in MEANINGS.items()
    ]
    notes = [f"- [{number}] {reason}" for reason, number in reasons.items()]
    head = f"Dates are those of the newest run. Evidence counts for {days} days."
    return "\n".join([head, "", *lines, *notes])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
