"""Writes the comment of a pull request: what runs of all kinds said, as Markdown. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import quote

from reports import measures, outcome
from reports.outcome import Conclusion, Expected, concluded, entry_of
from reports.places import published
from reports.record import Kind, Record
from reports.statuses import KINDS, SYMBOLS

MARKER = "<!-- ascend-matrix: results -->"
"""The first line, which a reader does not see; by it the comment is found and edited later."""

LIMIT = 65_000
"""The most characters of a comment; GitHub refuses more than 65,536."""

_SHOWN: Mapping[Conclusion, str] = {
    "failed": SYMBOLS["failed"],
    "error": SYMBOLS["error"],
    "unexpected pass": SYMBOLS["failed"],
    "inconclusive": SYMBOLS["inconclusive"],
    "expected failure": SYMBOLS["expected-failure"],
    "passed": SYMBOLS["passed"],
}
"""A symbol for each conclusion, the most urgent first."""

_ALWAYS: tuple[Conclusion, ...] = ("failed", "error", "inconclusive", "passed")
_REASON = 200  # characters of a reason
_SPARE = 500  # characters kept for the ends of tables, and for saying that something was cut

Base = Mapping[tuple[str, Kind], Record]
"""Cell and kind to the record that is compared with."""


def newest(records: Iterable[Record]) -> dict[tuple[str, Kind], Record]:
    """Return the newest record of each cell and kind."""
    found: dict[tuple[str, Kind], Record] = {}
    for record in sorted(records, key=lambda record: record.started):
        found[record.cell, record.kind] = record
    return found


def render(
    records: Iterable[Record],
    base: Base | None = None,
    limit: int = LIMIT,
    title: str = "Cells",
    site: str | None = None,
    expected: Expected = outcome.NONE,
) -> str:
    """Return the comment as Markdown, no longer than `limit` characters.

    Texts of records are shown as they are: they neither format the comment nor call anybody.

    Args:
        records: what ran; of each cell and kind the newest counts.
        base: what each cell had before; verdicts that differ are marked.
        limit: the most characters.
        title: the heading.
        site: address of the published site, to which cells are then linked.
        expected: failures that are expected of cells.
    """
    order = {conclusion: place for place, conclusion in enumerate(_SHOWN)}
    chosen = sorted(
        newest(records).values(),
        key=lambda r: (order[concluded(r, expected)], list(KINDS).index(r.kind), r.cell),
    )
    before = base or {}
    urgent = [record for record in chosen if concluded(record, expected) != "passed"]
    sentence, summary = _sentence(chosen, expected), _summary(chosen, expected)
    head = [MARKER, f"### {title}", "", sentence, "", *summary, ""]
    head += _changes(chosen, before)
    text = _Limited(limit - _SPARE)
    text.add("\n".join(head) + "\n")
    if urgent:
        text.rows(
            ["#### Not passed", "", *_header("cell", "kind", "verdict", "before", "why")],
            (_urgent_row(record, before, site, expected) for record in urgent),
            [""],
        )
    for kind in KINDS:
        passed = [r for r in chosen if r.kind == kind and concluded(r, expected) == "passed"]
        if passed:
            title = f"{KINDS[kind]}: {len(passed)} passed"
            text.rows(
                [
                    f"<details><summary>{title}</summary>",
                    "",
                    *_header("cell", "measured", "evidence", "seconds"),
                ],
                (_passed_row(record, site) for record in passed),
                ["", "</details>", ""],
            )
    return text.end()


class _Limited:
    """A text that grows row by row up to a limit, and says how many rows it left out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[str] = []
        self._length = 0
        self._left_out = 0

    def add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def rows(self, opening: Sequence[str], rows: Iterable[str], closing: Sequence[str]) -> None:
        """Add a table with the rows that fit; without any row there is no table either."""
        frame = "\n".join([*opening, ""]), "\n".join([*closing, ""])
        waiting = list(rows)
        room = self._limit - self._length - len(frame[0]) - len(frame[1])
        kept: list[str] = []
        for row in waiting:
            room -= len(row) + 1
            if room < 0:
                break
            kept.append(row)
        self._left_out += len(waiting) - len(kept)
        if kept:
            self.add(frame[0] + "".join(f"{row}\n" for row in kept) + frame[1])

    def end(self) -> str:
        if self._left_out:
            self.add(
                f"*{self._left_out} rows are left out, since a comment has no more room; "
                "the records and the site have all of them.*\n"
            )
        return "".join(self._parts)


# --------------------------------------------------------------------------------------- parts


def _sentence(records: Sequence[Record], expected: Expected) -> str:
    """Return the result in one line, with what it rests on."""
    if not records:
        return "**No cell left a record**; see why in the logs."
    counts = Counter(concluded(record, expected) for record in records)
    told = ", ".join(f"{counts[name]} {name}" for name in _SHOWN if counts[name])
    sorts = {record.evidence for record in records}
    evidence = {
        frozenset({"simulated"}): "Evidence: **simulated**; nothing ran on a real NPU.",
        frozenset({"hardware"}): "Evidence: **hardware**.",
    }.get(frozenset(sorts), "Evidence: **hardware and simulated**; each row says which.")
    return f"**{told}.** {evidence}"


def _summary(records: Sequence[Record], expected: Expected) -> Iterator[str]:
    """Yield a table of kind by conclusion; a kind of which nothing ran is there too."""
    occur = {concluded(record, expected) for record in records}
    names = [name for name in _SHOWN if name in _ALWAYS or name in occur]
    yield from _header("kind", *(f"{_SHOWN[name]} {name}" for name in names), "evidence")
    for kind, title in KINDS.items():
        own = [record for record in records if record.kind == kind]
        counts = Counter(concluded(record, expected) for record in own)
        evidence = " and ".join(sorted({record.evidence for record in own}))
        told = [str(counts[name] or "") if own else "" for name in names]
        yield _row(title, *told, evidence or "nothing ran")


def _changes(records: Sequence[Record], base: Base) -> list[str]:
    """Return one line about the verdicts that are others than before."""
    pairs = [(base[r.cell, r.kind].verdict, r.verdict) for r in records if (r.cell, r.kind) in base]
    if not pairs:
        return []
    worse = sum(was == "passed" != now for was, now in pairs)
    better = sum(now == "passed" != was for was, now in pairs)
    return [f"Of {len(pairs)} that ran before, {worse} no longer pass and {better} pass anew.", ""]


def _urgent_row(record: Record, base: Base, site: str | None, expected: Expected) -> str:
    was = base.get((record.cell, record.kind))
    found = concluded(record, expected)
    return _row(
        _cell(record, site),
        _kind(record),
        f"{_SHOWN[found]} {found}",
        f"{was.verdict}, {was.started:%Y-%m-%d}" if was else "",
        _why(record, expected),
    )


def _why(record: Record, expected: Expected) -> str:
    entry = entry_of(record, expected)
    if entry is not None and record.verdict == "passed":
        return code(outcome.surplus(entry))
    error = published(record).error
    if error is None:
        return _measured(record)
    first = (error.message.strip().splitlines() or [""])[0]
    owner = f"{entry.owner} until {entry.expires}; " if entry else ""
    return code(f"{owner}{error.class_}: {first}")


def _passed_row(record: Record, site: str | None) -> str:
    return _row(_cell(record, site), _measured(record), record.evidence, f"{record.seconds:.1f}")


def _cell(record: Record, site: str | None) -> str:
    """Return a cell's id, linked to where the site shows it."""
    if not site:
        return code(record.cell)
    return f"[{code(record.cell)}]({site.rstrip('/')}/matrix.html#{quote(record.cell)})"


def _kind(record: Record) -> str:
    return KINDS[record.kind] + ("" if record.evidence == "simulated" else ", hardware")


def _measured(record: Record) -> str:
    return code("; ".join(str(m) for m in measures.main(record, 3))) if record.metrics else ""


def _header(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def code(text: str, limit: int = _REASON) -> str:
    """Return a text of unknown origin as code, in one line of a table.

    Within code nothing else is markup; the fence is longer than any run of backticks inside, and
    a bar, which would end the cell even there, is escaped as tables want it.
    """
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    shown = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in shown)).strip()
    # After a backslash a bar cannot be escaped: the two backslashes would be taken for one.
    shown = re.sub(r"(?<=\\)\|", "¦", shown).replace("|", r"\|")
    if not shown:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{shown}{space}{fence}"
