"""Brings records out of files into a store: in bulk, once each, and nothing refused is lost."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from matrix.errors import BAD_USAGE, CONFLICT, INFRASTRUCTURE
from reports import spool, strict_json
from reports.errors import RecordError, ReportsError, StoreError
from reports.record import MAX_BYTES, Record, parse
from reports.store import BATCH, TOLERANCE, Store


@dataclass(frozen=True)
class Entry:
    """What a file, or a line or part of one, turned out to be.

    Attributes:
        origin: where it was found, for people.
        found: the record, or why it is none.
        content: what was read, where it is no record.
        file: the file on this disk that holds it, if one does.
        alone: whether that file holds nothing else.
    """

    origin: str
    found: Record | ReportsError
    content: bytes = b""
    file: Path | None = None
    alone: bool = False


@dataclass(frozen=True)
class Problem:
    """Why an entry was not stored, and where it is kept instead."""

    error: ReportsError
    origin: str = ""
    kept: str = ""

    @property
    def exit_code(self) -> int:
        """That of the error."""
        return self.error.exit_code

    def __str__(self) -> str:
        told = str(self.error)
        named = told if told.startswith(self.origin) else f"{self.origin}: {told}"
        return "\n".join(part for part in (named, self.kept) if part)


_GRAVEST = (INFRASTRUCTURE, CONFLICT, BAD_USAGE)


@dataclass
class Outcome:
    """What became of many entries.

    Attributes:
        new: how many records are stored now and were not before.
        old: how many were there already.
        ahead: how many of the new ones have a clock that was ahead.
        problems: one for each entry that was not stored, or for the store.
    """

    new: int = 0
    old: int = 0
    ahead: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The gravest of the problems' codes, or 0."""
        codes = {problem.exit_code for problem in self.problems}
        return next((code for code in _GRAVEST if code in codes), max(codes, default=0))

    def __str__(self) -> str:
        text = f"{self.new} records stored, {self.old} were there already"
        if self.ahead:
            text += f", {self.ahead} with a clock that is ahead"
        return text + (f", {len(self.problems)} refused" if self.problems else "")


def ingest(store: Store, sources: Iterable[Path]) -> Outcome:
    """Store the records in files and folders; a file of the spool or quarantine is then removed.

    What is no record, and what another record has the id of, is copied into the quarantine with
    the reason beside it; a file of the spool is moved there.
    """
    return take(store, (entry for path in spool.files(sources) for entry in entries(path)))


def take(store: Store, found: Iterable[Entry]) -> Outcome:
    """Store the records among entries, in transactions of `BATCH`."""
    outcome = Outcome()
    for batch in _batches(store, found, outcome):
        try:
            _store(store, batch, outcome)
        except StoreError as error:
            outcome.problems.append(_unavailable(store, batch, error))
            break  # what would refuse this one would refuse the next
    return outcome


def _batches(store: Store, found: Iterable[Entry], outcome: Outcome) -> Iterator[list[Entry]]:
    """Yield the records in groups; what is none is put aside at once."""
    batch: list[Entry] = []
    for entry in found:
        if isinstance(entry.found, Record):
            batch.append(entry)
        else:
            outcome.problems.append(_aside(store, entry, entry.found, entry.content))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _store(store: Store, batch: list[Entry], outcome: Outcome) -> None:
    records = [entry.found for entry in batch if isinstance(entry.found, Record)]
    for added in store.add_all(records):
        outcome.new += added.new
        outcome.old += added.old
        outcome.ahead += len(added.ahead)
        refused = {id(conflict.record): conflict for conflict in added.conflicts}
        for entry in batch:
            conflict = refused.get(id(entry.found))
            if conflict is not None and isinstance(entry.found, Record):
                content = entry.found.to_json(indent=2).encode()
                outcome.problems.append(_aside(store, entry, conflict, content))
            else:
                _remove_own(store, entry)


def _unavailable(store: Store, batch: list[Entry], error: StoreError) -> Problem:
    """Return the problem of a whole batch; records that no file holds go to the spool."""
    loose = [entry.found for entry in batch if entry.file is None]
    files = [spool.keep(record, store.spools) for record in loose if isinstance(record, Record)]
    folders = sorted({str(file.parent) for file in files if file is not None})
    kept = f"{len(files)} of them are kept in {', '.join(folders)}.\n" if folders else ""
    again = "Do the same again then: what is stored already is skipped."
    return Problem(error, kept=f"{len(batch)} records or more were not stored. {kept}{again}")


def _remove_own(store: Store, entry: Entry) -> None:
    """Remove a file of the spool or the quarantine whose record is elsewhere now."""
    if entry.file is None or not entry.alone:
        return
    folder, aside = entry.file.resolve().parent, spool.quarantine(store.spools)
    if folder in [own.resolve() for own in (*store.spools, aside)]:
        entry.file.unlink(missing_ok=True)
        if folder == aside.resolve():
            entry.file.with_suffix(".txt").unlink(missing_ok=True)


# -------------------------------------------------------------------------------------- quarantine


def _aside(store: Store, entry: Entry, error: ReportsError, content: bytes) -> Problem:
    """Keep what was refused, with the reason beside it; a file of the spool is moved."""
    problem = Problem(error, entry.origin)
    if not content:  # too large, or not readable: it stays where it is
        return problem
    folder = spool.quarantine(store.spools)
    stem = re.sub(r"[^\w.-]+", "-", Path(entry.origin).stem)[:80]
    kept = folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}.json"
    if entry.file is not None and entry.file.resolve().parent == folder.resolve():
        return replace(problem, kept=f"It stays in {entry.file}.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        spool.write_bytes(kept, content)
        spool.write(kept.with_suffix(".txt"), f"{problem}\n")
    except OSError as refused:
        return replace(problem, kept=f"It stays there; {folder}: {refused.strerror}.")
    _remove_own(store, entry)
    return replace(
        problem, kept=f"It is kept in {kept}; `python -m reports ingest {kept}` tries again."
    )


# ----------------------------------------------------------------------------------------- reading


def entries(path: Path) -> Iterator[Entry]:
    """Yield what a file holds: one record, what a run's --json wrote, or a record on each line.

    Lines are read from *.jsonl and *.jsonl.gz, up to one that is longer than any record, and
    documents from the table of records of an export, *.parquet.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "No such file")
        if path.suffix == ".parquet":
            yield from _table(path)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            opened: Any = gzip.open if path.suffix == ".gz" else open
            with opened(path, "rb") as file:
                yield from _lines(file, path)
        else:
            yield from _single(path)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        yield Entry(str(path), StoreError(f"{path}: cannot be read: {reason}."))


def _single(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        yield Entry(str(path), _too_large(str(path)))
        return
    yield from documents(content, str(path), path)


def documents(content: bytes, origin: str, file: Path | None = None) -> Iterator[Entry]:
    """Yield the records in the JSON text of one, or of what a run's --json wrote."""
    cells = _cells(content)
    if cells is None:
        yield _entry(content, content, origin, file, alone=True)
        return
    for number, cell in enumerate(cells):
        part = cell.get("record") if isinstance(cell, dict) else None
        where = f"{origin}: cells[{number}]"
        if isinstance(part, dict):
            yield _entry(part, strict_json.dumps(part), where, file)
        else:
            error = RecordError(f"{where}: a cell without a record.", "It did not run.")
            yield Entry(where, error, strict_json.dumps(cell), file)


def _cells(content: bytes) -> list[Any] | None:
    """Return the cells of what a run's --json wrote; None where it is something else."""
    if b'"cells"' not in content:
        return None  # as of nearly every file; a record is then read once
    try:
        data = strict_json.loads(content)
    except ValueError:
        return None  # whoever reads it as a record says what is wrong
    cells = data.get("cells") if isinstance(data, dict) else None
    return cells if isinstance(cells, list) else None


def _entry(
    document: Any, content: bytes, origin: str, file: Path | None, *, alone: bool = False
) -> Entry:
    try:
        return Entry(origin, parse(document, origin), b"", file, alone)
    except RecordError as error:
        return Entry(origin, error, content, file, alone)


def _lines(file: IO[bytes], path: Path) -> Iterator[Entry]:
    number = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        where = f"{path}:{number}"
        if len(line) > MAX_BYTES:
            yield Entry(where, _too_large(where))
            return
        if line.strip():
            yield _entry(line, line, where, path)


def _table(path: Path) -> Iterator[Entry]:
    from reports import parquet  # needed by few

    for number, text in enumerate(parquet.documents(path)):
        yield _entry(text, text.encode(), f"{path}: row {number}", path)


def _too_large(origin: str) -> RecordError:
    return RecordError(
        f"{origin}: more than {MAX_BYTES:,} bytes; no record is that large.",
        "A whole log was put into it, or it is something else.",
        "It stays where it is, and what follows is not read.\n"
        "Keep the log as an artifact, and its end in the record.",
    )


AHEAD = (
    f"a clock was more than {TOLERANCE.seconds // 60} minutes ahead of the store's; such records "
    "are kept, and never speak for a cell"
)
"""What is said where records arrive from the future."""
