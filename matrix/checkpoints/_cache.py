"""The checkpoint cache: one folder per recipe, built once, visible only when complete."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from matrix.checkpoints._errors import CheckpointStorageError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""Recipe and sizes of the files, written last; what a later run checks the folder against."""

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another process that builds the same checkpoint."""

Builder = Callable[[Path], None]


def default_folder() -> Path:
    """`$ASCEND_MATRIX_CACHE`, or ~/.cache/ascend-matrix; checkpoints lie in `checkpoints/`."""
    configured = os.environ.get("ASCEND_MATRIX_CACHE")
    base = Path(configured) if configured else Path.home() / ".cache" / "ascend-matrix"
    return base / "checkpoints"


def obtain(folder: Path, key: str, recipe: dict[str, object], build: Builder) -> Path:
    """Return `folder/key`, calling `build` on an empty folder if it is not there yet.

    The folder is built under another name on the same file system, flushed, and renamed, so a
    reader never sees a part of it. Processes that want the same key wait for the first one.

    Raises:
        CheckpointStorageError: no space, no permission, or the lock is never released.
    """
    target = folder / key
    if is_complete(target):
        return target
    with storage_errors(folder), _locked(folder, key):
        if is_complete(target):
            return target
        if target.exists():
            logger.warning("%s does not match its manifest; it is built again", target)
            shutil.rmtree(target)
        # What a killed process left: nobody else builds this key while the lock is held.
        for abandoned in folder.glob(f".{key}.*.part"):
            shutil.rmtree(abandoned, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".part", dir=folder))
        try:
            build(temporary)
            _write_manifest(temporary, recipe)
            _flush(temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
            _flush_folder(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def is_complete(target: Path) -> bool:
    """Whether every file that the manifest names is there with its size."""
    try:
        sizes: dict[str, int] = json.loads((target / MANIFEST).read_text())["files"]
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_manifest(folder: Path, recipe: dict[str, object]) -> None:
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"recipe": recipe, "files": sizes}, indent=2)
    (folder / MANIFEST).write_text(text + "\n")


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path, key: str) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f".{key}.lock", timeout=LOCK_TIMEOUT)
    try:
        with lock:
            yield
    except Timeout as error:
        raise CheckpointStorageError(
            f"Waited {LOCK_TIMEOUT:.0f} s for another process that builds {folder / key}.",
            why="That process hangs or is very slow.",
            fix="End it, then run this again; nothing has to be cleaned up.",
        ) from error


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Make the folder, and turn failures of the file system into one error with a remedy.

    Raises:
        CheckpointStorageError: no space, no permission, or a read-only file system.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except CheckpointStorageError:
        raise
    except Exception as error:
        if not _is_storage_failure(error):
            raise
        raise CheckpointStorageError(
            f"The checkpoint cache {folder} cannot be written: {error}",
            why="The disk is full, a quota is reached, or the folder is not writable. "
            "Nothing half-written was left there.",
            fix="Free some space (a real model takes up to 1 GB), or set ASCEND_MATRIX_CACHE to "
            "another folder.",
        ) from error


def _is_storage_failure(error: Exception) -> bool:
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    refused = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}
    codes = full | refused
    if isinstance(error, OSError):
        return error.errno in codes
    # safetensors reports input and output errors under a class of its own, as text.
    text = str(error)
    return any(f"(os error {code})" in text for code in codes)
