"""Moves the bulky parts of old records into an archive; what statuses and history need stays."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reports import ingest
from reports.errors import RecordError, ReportsError, StoreError
from reports.record import Record
from reports.store import BATCH, Store


@dataclass(frozen=True)
class Pruned:
    """What a pruning moved, or would move.

    Attributes:
        records: how many records.
        characters: how long their details are.
        archive: the file that has them now; None where nothing was moved.
    """

    records: int
    characters: int
    archive: Path | None = None


def prune(
    store: Store, before: datetime, folder: Path | None = None, *, dry_run: bool = False
) -> Pruned:
    """Move proofs, samples and logs of records that started before then into a new archive.

    Of each record everything else stays: verdict, evidence, versions, dates and metrics. The
    newest record of each cell, kind and evidence, and the newest that passed, stay whole.

    Args:
        store: where the records are.
        before: of what started then or later nothing is moved.
        folder: where the archive is made; by default the folder `archive` beside an SQLite file.
        dry_run: only count.

    Raises:
        StoreError: the archive cannot be written, or the store refuses; nothing is moved then.
    """
    count, characters = store.superseded_size(before)
    if dry_run or not count:
        return Pruned(count, characters)
    path = _archive(store, folder)
    digest, ids = _write(path, store.superseded(before))
    try:
        store.move_details(ids, before, path.name, digest)
    except StoreError:
        path.unlink(missing_ok=True)
        raise
    return Pruned(len(ids), characters, path)


def restore(store: Store, archive: Path) -> tuple[int, list[ReportsError]]:
    """Put details back from an archive; return of how many records, and what did not fit.

    A record that the store never had is no matter of this; `ingest` takes it.
    """
    found: list[Record] = []
    problems: list[ReportsError] = []
    restored = 0
    for entry in ingest.entries(archive):
        if isinstance(entry.found, Record):
            found.append(entry.found)
        else:
            problems.append(entry.found)
        if len(found) == BATCH:
            restored += store.restore(found)
            found = []
    return restored + store.restore(found), problems


def _archive(store: Store, folder: Path | None) -> Path:
    chosen = folder or store.archives
    if chosen is None:
        raise RecordError(
            f"No folder is named for the archive of {store.name}.",
            "A server has no folder of its own here.",
            "Name one with --archive DIR, on a disk that is kept.",
        )
    return chosen / f"records-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.jsonl.gz"


def _write(path: Path, records: Iterable[Record]) -> tuple[str, list[str]]:
    """Write records, one on each line, to the disk itself; return the SHA-256, and their ids."""
    ids = []
    draft = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file) as packed:
                for record in records:
                    packed.write(record.to_json().encode() + b"\n")
                    ids.append(record.id)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), ids
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise StoreError(
            f"The archive {path} cannot be written: {error.strerror or error}.",
            "The disk is full, or the folder belongs to somebody else.",
            "Name another folder with --archive; nothing was moved.",
        ) from error
