"""The spool: records as single files, kept where the store could not take them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from reports.record import Record

ENVIRONMENT = "ASCEND_MATRIX_SPOOL"
"""Environment variable with the folder that is tried first."""


SUFFIXES = (".json", ".jsonl", ".jsonl.gz")
"""How files of records are named."""


def folders(store: str, beside: Path | None) -> list[Path]:
    """Return where records are spooled, in the order in which it is tried.

    Args:
        store: the store's name; records of one store must not end in another.
        beside: the folder of the store's file, if it is one. The last folder is on the disk of
            temporary files, which may have space where the store's disk has none.
    """
    chosen = os.environ.get(ENVIRONMENT)
    digest = hashlib.sha256(store.encode()).hexdigest()[:12]
    temporary = Path(tempfile.gettempdir()) / f"ascend-matrix-spool-{os.getuid()}-{digest}"
    candidates = [Path(chosen) if chosen else None, beside and beside / "spool", temporary]
    return [folder for folder in candidates if folder is not None]


def quarantine(spools: Sequence[Path]) -> Path:
    """Return where files are kept that hold no record that can be stored: beside the spool."""
    first = spools[0]
    return first.with_name("quarantine" if first.name == "spool" else f"{first.name}-quarantine")


def keep(record: Record, candidates: Sequence[Path]) -> Path | None:
    """Write the record into the first folder that takes it whole; return the file, or None."""
    for folder in candidates:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return write(folder / f"{record.id}.json", record.to_json(indent=2) + "\n")
        except OSError:
            continue
    return None


def write(path: Path, text: str) -> Path:
    """Write `text` to `path` so that the file is there whole or not at all, even after a crash.

    Raises:
        OSError: the file could not be written; nothing is left of it.
    """
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Do the same with bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files(sources: Iterable[Path]) -> list[Path]:
    """Return the record files that `sources` name: files as they are, and those in folders."""
    found: list[Path] = []
    for source in sources:
        inside = source.iterdir() if source.is_dir() else [source]
        found += sorted(p for p in inside if p == source or p.name.endswith(SUFFIXES))
    return found
