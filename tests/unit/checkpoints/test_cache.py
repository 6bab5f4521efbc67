"""The cache shows a folder only when it is complete, whatever happens while it is built."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from matrix.checkpoints import CheckpointStorageError, _cache


def write(content: str) -> _cache.Builder:
    def build(folder: Path) -> None:
        (folder / "file").write_text(content)

    return build


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_second_call_builds_nothing(tmp_path: Path) -> None:
    first = _cache.obtain(tmp_path, "key", {}, write("one"))
    second = _cache.obtain(tmp_path, "key", {}, write("two"))
    assert first == second
    assert (second / "file").read_text() == "one"


def test_folder_that_lost_a_file_is_built_again(tmp_path: Path) -> None:
    folder = _cache.obtain(tmp_path, "key", {}, write("one"))
    (folder / "file").write_text("shortened")
    assert (_cache.obtain(tmp_path, "key", {}, write("two")) / "file").read_text() == "two"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".key.abc.part").mkdir()
    (tmp_path / ".other.abc.part").mkdir()
    _cache.obtain(tmp_path, "key", {}, write("one"))
    assert visible(tmp_path) == [".other.abc.part", "key"]


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        _cache.obtain(tmp_path, "key", {}, fail)
    assert visible(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    def fill(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise error

    with pytest.raises(CheckpointStorageError, match="cannot be written") as raised:
        _cache.obtain(tmp_path, "key", {}, fill)
    assert raised.value.exit_code == 3
    assert "ASCEND_MATRIX_CACHE" in raised.value.fix
    assert visible(tmp_path) == []


def test_two_at_once_build_once(tmp_path: Path) -> None:
    built: list[int] = []
    inside, leave = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        built.append(1)
        inside.set()
        assert leave.wait(20)
        (folder / "file").write_text("x")

    threads = [
        threading.Thread(target=_cache.obtain, args=(tmp_path, "key", {}, slow)) for _ in range(2)
    ]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(20)
    assert built == [1]
    assert visible(tmp_path) == ["key"]
