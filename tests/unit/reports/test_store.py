"""Records are appended in one transaction, once, and none is lost when the store cannot take it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from reports import ConflictError, RecordError, Store, StoreError, parse, spool
from tests import postgresql
from tests.unit.reports.conftest import CELL, Run, document, record, versions

ROOT = Path(__file__).parents[3]
OTHER = "llama/base/cann-9.1.0/a2"


def test_empty_store_reads_as_empty(any_store: Store) -> None:
    assert any_store.records() == []
    assert any_store.newest() == []
    assert any_store.revision() is None


def test_reading_leaves_no_file(store: Store, tmp_path: Path) -> None:
    assert store.records() == []
    assert not (tmp_path / "results").exists()


def test_records_come_back_oldest_first(any_store: Store) -> None:
    late = record(started="2026-11-21T10:00:00Z")
    early = record(started="2026-11-20T10:00:00.25Z", verdict="failed")
    other = record(OTHER, started="2026-11-19T10:00:00Z", kind="accuracy")
    for one in (late, early, other):
        assert any_store.add(one) is True
    assert any_store.records() == [other, early, late]
    assert any_store.records(cell=CELL) == [early, late]
    assert any_store.records(kind="accuracy") == [other]
    assert any_store.records(since=early.started) == [early, late]


def test_newest_is_of_each_cell_kind_and_evidence(any_store: Store) -> None:
    hardware = {"evidence": "hardware", "versions": versions(cannsim=None)}
    kept = [
        record(OTHER, kind="accuracy", started="2026-11-19T10:00:00Z"),
        record(started="2026-11-10T10:00:00Z", **hardware),
        record(started="2026-11-21T10:00:00.000001Z", verdict="failed"),
    ]
    passed_over = [
        record(started="2026-11-21T10:00:00Z"),
        record(started="2026-11-09T10:00:00Z", **hardware),
    ]
    list(any_store.add_all([*kept, *passed_over]))
    assert sorted(any_store.newest(), key=lambda one: one.started) == [kept[1], kept[0], kept[2]]
    assert any_store.newest(kind="accuracy") == [kept[0]]


def test_newest_of_those_that_ended_so_or_started_before(any_store: Store) -> None:
    days = [f"2026-11-0{day}T00:00:00Z" for day in (1, 2, 3)]
    passed, failed = record(started=days[0]), record(started=days[1], verdict="failed")
    last = record(started=days[2])
    other = record("qwen3/lora/cann-9.1.0/a2", started=days[0])
    for one in (last, passed, failed, other):
        any_store.add(one)
    assert any_store.newest(cell=CELL) == [last]
    assert any_store.newest(cell=CELL, verdict="failed") == [failed]
    assert any_store.newest("e2e", CELL, "passed", last.started) == [passed]
    assert any_store.newest(before=passed.started) == []


def test_runs_are_the_newest_few_of_each_cell(any_store: Store) -> None:
    assert any_store.runs("e2e") == []
    made = [record(started=f"2026-11-0{day}T00:00:00Z") for day in (3, 1, 2)]
    ahead = record(started=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    for one in (*made, record(kind="perf"), ahead):
        any_store.add(one)
    runs = any_store.runs("e2e")
    assert [run.started.day for run in runs] == [1, 2, 3]
    assert {(r.cell, r.verdict, r.seconds) for r in runs} == {(CELL, "passed", made[0].seconds)}
    assert runs[0].commit == made[0].versions.commit
    assert [run.started.day for run in any_store.runs("e2e", 2)] == [2, 3]


def test_of_two_that_started_together_the_later_stored_is_newest(any_store: Store) -> None:
    first, second = record(), record(verdict="failed")
    any_store.add(first)
    any_store.add(second)
    assert any_store.newest() == [second]


def test_adding_twice_stores_once(any_store: Store) -> None:
    one = record()
    assert any_store.add(one) is True
    assert any_store.add(one) is False
    assert any_store.records() == [one]


def test_the_order_of_keys_makes_no_other_record(any_store: Store) -> None:
    metrics = {"a": {"value": 1, "unit": "s"}, "b": {"value": 2, "unit": "s"}}
    one = record(metrics=metrics)
    again = one.document() | {"metrics": dict(reversed(metrics.items()))}
    any_store.add(one)
    assert any_store.add(parse(json.dumps(again))) is False


def test_same_id_with_other_content_is_refused(any_store: Store) -> None:
    one = record()
    any_store.add(one)
    with pytest.raises(ConflictError, match="append-only") as caught:
        any_store.add(one.model_copy(update={"seconds": 1.0}))
    assert one.id in str(caught.value)
    assert one.cell in str(caught.value)
    assert any_store.records() == [one]


def test_many_are_added_in_transactions_and_counted(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.store.BATCH", 4)
    there = record()
    any_store.add(there)
    fresh = [record() for _ in range(6)]
    changed = there.model_copy(update={"seconds": 1.0})
    steps = list(any_store.add_all([there, fresh[0], fresh[0], changed, *fresh[1:]]))
    assert [(step.new, step.old, len(step.conflicts)) for step in steps] == [
        (1, 2, 1),
        (4, 0, 0),
        (1, 0, 0),
    ]
    assert there.id in str(steps[0].conflicts[0])
    assert {one.id for one in any_store.records()} == {there.id, *(one.id for one in fresh)}


def test_two_of_one_id_in_one_transaction(any_store: Store) -> None:
    """The first one counts, as it does when they come one after the other."""
    first = record()
    (step,) = any_store.add_all([first, first.model_copy(update={"seconds": 1.0})])
    assert (step.new, step.old, len(step.conflicts)) == (1, 0, 1)
    assert any_store.records() == [first]


def test_clock_that_is_ahead_is_marked_and_never_newest(any_store: Store) -> None:
    now = datetime.now(UTC)
    honest = record(started=(now - timedelta(days=1)).isoformat())
    tolerated = record(OTHER, started=(now + timedelta(minutes=4)).isoformat())
    ahead = record(started=(now + timedelta(minutes=6)).isoformat(), verdict="failed")
    (step,) = any_store.add_all([honest, tolerated, ahead])
    assert (step.new, step.ahead) == (3, (ahead.id,))
    assert any_store.newest() == [tolerated, honest]
    assert [stored.record for stored in any_store.stored() if stored.ahead] == [ahead]
    assert any_store.add(ahead) is False, "it was accepted"


def _raw(store: Store, statement: str, **values: object) -> None:
    """Do what another program could do."""
    with store._engine.begin() as connection:
        connection.execute(sa.text(statement), values)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records",
        "UPDATE records SET verdict='passed'",
        "UPDATE records SET ahead=NOT ahead",
        "DELETE FROM details",
        "UPDATE details SET document='{}'",
    ],
)
def test_nothing_stored_can_be_changed(any_store: Store, statement: str) -> None:
    kept = [record(verdict="failed", started="2026-11-20T10:00:00Z"), record(verdict="failed")]
    list(any_store.add_all(kept))
    with pytest.raises(sa.exc.IntegrityError, match=r"append-only|moved away by a pruning alone"):
        _raw(any_store, statement)
    assert any_store.records() == kept


def test_replacing_changes_nothing_either(store: Store) -> None:
    one = record(verdict="failed")
    store.add(one)
    columns = "id, digest, cell, kind, verdict, evidence, started, received, ahead, document"
    copied = columns.replace("verdict", "'passed'")
    _raw(store, f"INSERT OR REPLACE INTO records ({columns}) SELECT {copied} FROM records")
    _raw(store, "INSERT OR REPLACE INTO details SELECT record, '{}' FROM details")
    assert store.records() == [one]


def test_truncating_is_refused(server: postgresql.Server) -> None:
    store = Store(server.create())
    store.add(record())
    for table in ("records", "details", "pruned", "prunings"):
        with pytest.raises(sa.exc.IntegrityError, match=r"append-only|moved away"):
            _raw(store, f"TRUNCATE {table} CASCADE")
    assert len(store.records()) == 1


def test_record_of_a_newer_schema_in_the_store_is_refused(any_store: Store) -> None:
    any_store.add(record())
    newer = json.dumps({**document(), "schema": 2, "id": "f" * 32})
    _raw(
        any_store,
        "INSERT INTO records (id, digest, cell, kind, verdict, evidence, started, ahead, document)"
        " SELECT :id, digest, cell, kind, verdict, evidence, started, ahead, :newer FROM records",
        id="f" * 32,
        newer=newer,
    )
    with pytest.raises(RecordError, match="schema 2") as caught:
        any_store.records()
    assert "f" * 32 in str(caught.value)


def test_another_database_is_refused() -> None:
    with pytest.raises(StoreError, match="SQLite or PostgreSQL") as caught:
        Store("mysql://user@host/records")
    assert caught.value.exit_code == 3


def test_url_that_is_none() -> None:
    with pytest.raises(StoreError, match="sqlite:///results") as caught:
        Store("no url")
    assert caught.value.exit_code == 3


def test_password_is_not_shown() -> None:
    with pytest.raises(StoreError) as caught:
        Store("postgresql+nodriver://user:secret@host/records")
    assert "secret" not in str(caught.value)
    assert "user:***@host" in str(caught.value)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("some other file, long enough to be looked at\n" * 50)
    store = Store(f"sqlite:///{tmp_path}/x.sqlite")
    with pytest.raises(StoreError, match="Another program's file") as caught:
        store.records()
    assert caught.value.exit_code == 3
    with pytest.raises(StoreError) as caught:
        store.add(record())
    assert caught.value.spooled == tmp_path / "spool" / caught.value.spooled.name


def test_locked_store_spools(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(record())
    monkeypatch.setattr("reports.store._BUSY_SECONDS", 0)
    patient = Store(f"sqlite:///{tmp_path}/results/records.sqlite")
    holder = sqlite3.connect(tmp_path / "results" / "records.sqlite")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match="Another process is writing") as caught:
            patient.add(record())
    finally:
        holder.close()
    assert caught.value.spooled is not None
    assert caught.value.spooled.parent == tmp_path / "results" / "spool"


_WRITER = """
import json, os, sys
from reports import Store, parse
url, start = sys.argv[1:]
documents = json.load(sys.stdin)
Store(url)
while not os.path.exists(start):
    pass
for document in documents:
    Store(url).add(parse(document))
"""


def test_processes_that_write_at_the_same_time_lose_nothing(any_url: str, tmp_path: Path) -> None:
    url, start = any_url, tmp_path / "start"
    command = [sys.executable, "-c", _WRITER, url, str(start)]
    batches = [[record().document() for _ in range(8)] for _ in range(3)]
    writers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=ROOT) for _ in batches
    ]
    for writer, batch in zip(writers, batches, strict=True):
        assert writer.stdin
        writer.stdin.write(json.dumps(batch))
        writer.stdin.close()
    start.touch()
    assert [writer.wait() for writer in writers] == [0] * len(writers)
    stored = {one.id for one in Store(url).records()}
    assert stored == {document["id"] for batch in batches for document in batch}
    assert not (tmp_path / "results" / "spool").exists()


_KILLED = """
import os, signal, sys
import sqlalchemy
from reports import Store, parse
store = Store(sys.argv[1])
store.records()
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
sqlalchemy.event.listen(store._engine, "commit", die)
store.add(parse(sys.stdin.read()))
"""


def test_process_killed_while_it_writes_leaves_the_store_whole(any_url: str) -> None:
    store, earlier = Store(any_url), record()
    store.add(earlier)
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, any_url], input=record().to_json(), text=True, cwd=ROOT
    )
    assert ran.returncode == -signal.SIGKILL
    assert store.records() == [earlier]
    assert store.add(record()) is True


class SmallDisk:
    """A folder on a disk that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, leave: int = 0) -> None:
        """Use up the space but `leave` bytes."""
        path = self.folder / "filler"
        with path.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        if leave:
            os.truncate(path, max(0, path.stat().st_size - leave))

    def free(self) -> None:
        """Give the space back."""
        (self.folder / "filler").unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A real file system of 256 KiB, where mounting one is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288])
def test_full_disk_loses_no_record(
    small_disk: SmallDisk, tmp_path: Path, run: Run, leave: int
) -> None:
    """Whatever little is left, the earlier record stays, and the new one is whole somewhere."""
    url = f"sqlite:///{small_disk.folder}/records.sqlite"
    earlier = record(OTHER)
    Store(url).add(earlier)
    small_disk.fill(leave)
    later = record(
        verdict="failed",
        error={"class": "E", "message": "m", "log_tail": "line of a log\n" * 1500},
    )

    with pytest.raises(StoreError) as caught:
        Store(url).add(later)

    error = caught.value
    assert error.exit_code == 3
    assert "full" in str(error)
    assert error.spooled is not None
    assert json.loads(error.spooled.read_text()) == later.document()
    assert f"python -m reports ingest {error.spooled} --store '{url}'" in str(error)
    assert error.spooled.parent == tmp_path / "temporary" / error.spooled.parent.name
    assert not list(small_disk.folder.glob("**/*.tmp")), "nothing half-written is left"
    assert Store(url).records() == [earlier]

    small_disk.free()
    code, out, _ = run("ingest", error.spooled, "--store", url)
    assert (code, out.split(" records")[0]) == (0, "1")
    assert {one.id for one in Store(url).records()} == {earlier.id, later.id}
    assert not error.spooled.exists()


def test_full_disk_before_the_first_record(small_disk: SmallDisk) -> None:
    small_disk.fill()
    url = f"sqlite:///{small_disk.folder}/new/records.sqlite"
    with pytest.raises(StoreError) as caught:
        Store(url).add(record())
    assert caught.value.spooled is not None
    small_disk.free()
    assert Store(url).records() == [], "what is left of the file is no damaged store"
    assert Store(url).add(record()) is True


_LIMITED = """
import sys
from reports import Store, StoreError, parse
try:
    Store(sys.argv[1]).add(parse(sys.stdin.read()))
except StoreError as error:
    print(error.spooled)
    sys.exit(error.exit_code)
"""


def test_limit_on_the_size_of_files_loses_no_record(tmp_path: Path) -> None:
    """The same without a mount: the kernel refuses to let any file grow."""
    url = f"sqlite:///{tmp_path}/records.sqlite"
    earlier = record(OTHER)
    Store(url).add(earlier)
    size = (tmp_path / "records.sqlite").stat().st_size

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    big = record(proof={"text": "x" * 2 * size})
    ran = subprocess.run(
        [sys.executable, "-c", _LIMITED, url],
        input=big.to_json(),
        capture_output=True,
        text=True,
        preexec_fn=limit,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # No file may hold this record, so the error itself has to.
    assert (ran.returncode, ran.stdout.strip()) == (3, "None"), ran.stderr
    assert Store(url).records() == [earlier]
    assert not list(tmp_path.glob("**/*.tmp"))


def test_without_any_folder_the_error_holds_the_record(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "write", refuse)
    monkeypatch.setattr(Store, "_prepare", refuse)
    lost = record()
    with pytest.raises(StoreError) as caught:
        any_store.add(lost)
    assert caught.value.spooled is None
    assert lost.to_json() in str(caught.value)


def test_chosen_spool_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv(spool.ENVIRONMENT, str(tmp_path / "chosen"))
    assert store.spools[0] == tmp_path / "chosen"


def test_stores_do_not_share_a_spool(tmp_path: Path) -> None:
    stores = [Store(f"sqlite:///{tmp_path}/{name}/records.sqlite") for name in "ab"]
    assert not set(stores[0].spools) & set(stores[1].spools)
    servers = [Store(f"postgresql://host/{name}") for name in "ab"]
    folders = {spool.quarantine(store.spools) for store in (*stores, *servers)}
    assert len(folders) == 4, "nor a quarantine"


def test_spool_is_the_same_however_the_store_is_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("sqlite:///results/records.sqlite").spools[-1] == store.spools[-1]


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "r.json").write_text("earlier")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        spool.write(tmp_path / "r.json", "later")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert (tmp_path / "r.json").read_text() == "earlier"


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("earlier")
    os.link(tmp_path / "r.json", tmp_path / "what a reader has open")
    spool.write(tmp_path / "r.json", "later")
    assert (tmp_path / "r.json").read_text() == "later"
    assert (tmp_path / "what a reader has open").read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 2
