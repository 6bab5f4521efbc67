"""Old records lose their bulk and nothing else, and the newest of each cell not even that."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

import matrix
from reports import Record, Store, StoreError, retention, statuses
from tests.unit.reports.conftest import CELL, NOW, Run, record, versions

OTHER = "llama/base/cann-9.1.0/a2"
BEFORE = datetime(2026, 11, 20, tzinfo=UTC)
_LOG = {"class": "GateFailed", "message": "token 7 differs", "log_tail": "a\nb\n"}
_HARDWARE = {"evidence": "hardware", "versions": versions(cannsim=None)}


def _at(day: int, cell: str = CELL, **changes: object) -> Record:
    return record(cell, started=f"2026-11-{day:02}T00:00:00Z", **changes)


@pytest.fixture
def kept() -> list[Record]:
    """Records that stay whole: the newest of their sort, the newest that passed, the young."""
    return [
        _at(3, **_HARDWARE),
        _at(5, kind="accuracy", samples=[{"id": 1}]),
        _at(6, OTHER),
        _at(7, OTHER, verdict="failed", error=_LOG),
        _at(21),
    ]


@pytest.fixture
def moved() -> list[Record]:
    """Records that a newer one speaks before."""
    return [
        _at(1, samples=[{"hash": "ab" * 16}]),
        _at(2, verdict="failed", error=_LOG),
        _at(4, kind="accuracy", samples=[{"id": 0}]),
        _at(5, OTHER, verdict="failed", error=_LOG),
    ]


@pytest.fixture
def archive(any_store: Store, kept: list[Record], moved: list[Record], tmp_path: Path) -> Path:
    """The archive of a pruning of all of them."""
    list(any_store.add_all([*moved, *kept]))
    found = retention.prune(any_store, BEFORE, tmp_path / "archive")
    assert found.records == len(moved)
    assert found.archive is not None
    return found.archive


def test_exactly_the_superseded_lose_their_details(
    any_store: Store, archive: Path, kept: list[Record], moved: list[Record]
) -> None:
    found = {stored.record.id: stored for stored in any_store.stored()}
    assert {id_ for id_, stored in found.items() if not stored.whole} == {r.id for r in moved}
    assert all(found[one.id].record == one for one in kept)
    assert archive.name in str(found[moved[0].id].record.proof)
    failed = found[moved[1].id].record.error
    assert failed is not None
    assert failed.message == "token 7 differs"
    assert archive.name in failed.log_tail


def test_history_and_statuses_stay(
    any_store: Store, archive: Path, kept: list[Record], moved: list[Record]
) -> None:
    before = {one.id: one for one in [*kept, *moved]}
    for one in any_store.records():
        was = before[one.id]
        for part in ("cell", "kind", "verdict", "evidence", "versions", "started", "metrics"):
            assert getattr(one, part) == getattr(was, part)
        assert (one.seconds, one.timings, one.runner) == (was.seconds, was.timings, was.runner)
    cells = [cell for cell in matrix.expand(matrix.load()) if cell.id in (CELL, OTHER)]
    assert statuses(cells, any_store.newest(), NOW) == statuses(cells, before.values(), NOW)


def test_archive_has_everything(archive: Path, moved: list[Record]) -> None:
    with gzip.open(archive, "rt") as file:
        lines = [json.loads(line) for line in file]
    assert lines == [one.document() for one in sorted(moved, key=lambda one: one.started)]


def test_record_that_was_pruned_is_still_known(
    any_store: Store, archive: Path, moved: list[Record]
) -> None:
    assert any_store.add(moved[0]) is False
    with pytest.raises(StoreError, match="another record"):
        any_store.add(moved[0].model_copy(update={"proof": {"a": "lie"}}))


def test_restoring_makes_them_whole(
    any_store: Store, archive: Path, kept: list[Record], moved: list[Record]
) -> None:
    assert retention.restore(any_store, archive) == (len(moved), [])
    assert retention.restore(any_store, archive) == (0, [])
    assert all(stored.whole for stored in any_store.stored())
    assert {one.id: one for one in any_store.records()} == {one.id: one for one in [*kept, *moved]}
    again = retention.prune(any_store, BEFORE, archive.parent)
    assert again.records == len(moved)


def test_pruning_twice_moves_nothing(any_store: Store, archive: Path) -> None:
    assert retention.prune(any_store, BEFORE, archive.parent) == retention.Pruned(0, 0)
    assert list(archive.parent.iterdir()) == [archive]


def test_clock_that_was_ahead_does_not_keep_a_record_whole(
    any_store: Store, tmp_path: Path
) -> None:
    ahead = record(started=(datetime.now(UTC) + timedelta(days=9)).isoformat())
    honest = _at(1)
    list(any_store.add_all([honest, ahead]))
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert retention.prune(any_store, later, tmp_path).records == 1
    assert {s.record.id: s.whole for s in any_store.stored()} == {honest.id: True, ahead.id: False}


@pytest.mark.parametrize("which", ["kept", "moved"])
def test_store_itself_allows_nothing_else(
    any_store: Store, kept: list[Record], moved: list[Record], which: str
) -> None:
    """Not even this code can move details of the newest, nor of what no archive has."""
    list(any_store.add_all([*moved, *kept]))
    with any_store._engine.begin() as connection:
        delete = sa.text("DELETE FROM details WHERE record = :id")
        with pytest.raises(sa.exc.IntegrityError, match="moved away by a pruning alone"):
            connection.execute(delete, {"id": {"kept": kept, "moved": moved}[which][0].id})
    if which == "kept":
        for one in kept[:4]:
            with pytest.raises(StoreError, match="never those of the newest"):
                any_store.move_details([one.id], BEFORE, "archive", "0" * 64)
    assert all(stored.whole for stored in any_store.stored())


def test_archive_that_cannot_be_written_moves_nothing(
    store: Store, kept: list[Record], moved: list[Record], tmp_path: Path
) -> None:
    list(store.add_all([*moved, *kept]))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="nothing was moved"):
        retention.prune(store, BEFORE, tmp_path / "file")
    assert all(stored.whole for stored in store.stored())


def test_commands(run: Run, sqlite_url: str, kept: list[Record], moved: list[Record]) -> None:
    store = Store(sqlite_url)
    list(store.add_all([*moved, *kept]))
    days = (datetime.now(UTC) - BEFORE).days
    ours = ("store", "prune", "--store", sqlite_url, "--older-than", f"{max(days, 0)}d")
    if days < 1:
        pytest.skip("the clock of this machine is before the records' dates")
    code, out, _ = run(*ours, "--dry-run")
    assert code == 0
    assert f"logs of {len(moved)} records" in out
    assert "would be moved" in out
    assert all(stored.whole for stored in store.stored())
    assert run(*ours)[0] == 0
    assert store.archives is not None
    (archive,) = store.archives.iterdir()
    assert run("store", "restore", archive, "--store", sqlite_url)[:2] == (
        0,
        f"{sqlite_url}: {len(moved)} records are whole again, from {archive}\n",
    )


def test_a_server_needs_a_folder(run: Run, any_url: str) -> None:
    list(Store(any_url).add_all([_at(1), _at(2)]))
    code, _, err = run("store", "prune", "--store", any_url, "--older-than", "0d")
    if any_url.startswith("sqlite"):
        assert code == 0
    else:
        assert code == 2
        assert "--archive DIR" in err
