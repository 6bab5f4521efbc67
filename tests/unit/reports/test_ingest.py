"""Records from many runners arrive once each, and what is hostile or broken is told and kept."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reports import Record, Store, spool
from reports.ingest import Outcome, ingest
from tests.unit.reports.conftest import Run, document, record

ROOT = Path(__file__).parents[3]


def write(path: Path, *records: Record) -> Path:
    """Write a record, or one on each line of a file of lines."""
    path.write_text("\n".join(one.to_json() for one in records) + "\n")
    return path


def aside(store: Store) -> list[Path]:
    """Return what is in the quarantine, without the reasons."""
    return sorted(spool.quarantine(store.spools).glob("*.json"))


def summary(outcome: Outcome) -> tuple[int, int, int]:
    """Return how many were new, old and refused."""
    return outcome.new, outcome.old, len(outcome.problems)


@pytest.fixture(autouse=True)
def _own_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(spool.ENVIRONMENT, str(tmp_path / "own" / "spool"))


def test_lines_files_and_outcomes_of_runs(any_store: Store, tmp_path: Path) -> None:
    made = [record() for _ in range(8)]
    write(tmp_path / "one.json", made[0])
    write(tmp_path / "many.jsonl", *made[1:4])
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
        file.writelines(one.to_json() + "\n" for one in made[3:6])
    cells = [{"id": one.cell, "record": one.document()} for one in made[5:]]
    (tmp_path / "outcome.json").write_text(json.dumps({"cells": cells}))
    (tmp_path / "other.txt").write_text("not looked at")
    assert summary(ingest(any_store, [tmp_path])) == (8, 2, 0)
    assert summary(ingest(any_store, [tmp_path])) == (0, 10, 0)
    assert {one.id for one in any_store.records()} == {one.id for one in made}


def test_processes_that_ingest_the_same_lose_and_double_nothing(
    any_url: str, tmp_path: Path
) -> None:
    made = [record() for _ in range(600)]
    files = [write(tmp_path / f"{n}.jsonl", *made[n * 100 : n * 100 + 300]) for n in range(4)]
    command = [sys.executable, "-m", "reports", "ingest", "--store", any_url]
    orders = (files, files[::-1])
    running = [
        subprocess.Popen([*command, *map(str, order)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for order in orders
    ]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    assert sum(int(text.split()[0]) for text in told) == len(made)
    assert sorted(one.id for one in Store(any_url).records()) == sorted(one.id for one in made)


def test_two_runners_with_one_id(any_store: Store, tmp_path: Path) -> None:
    """The first stays; the other is told and kept, and becomes no record by being tried again."""
    ours = record(runner="runner-a")
    theirs = ours.model_copy(update={"runner": "runner-b"})
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.json", ours)
    write(folder / "b.json", theirs)
    outcome = ingest(any_store, [folder])
    assert summary(outcome) == (1, 0, 1)
    assert outcome.exit_code == 10
    told = str(outcome.problems[0])
    assert f"{folder}/b.json: " in told
    assert "'runner-b'" in told
    (kept,) = aside(any_store)
    assert str(kept) in told
    assert json.loads(kept.read_text()) == theirs.document()
    assert "another record" in kept.with_suffix(".txt").read_text()
    assert (folder / "b.json").exists()
    assert summary(ingest(any_store, [kept])) == (0, 0, 1)
    assert kept.exists()
    assert any_store.records() == [ours]


def test_future_schema_waits_for_the_upgrade(store: Store, tmp_path: Path, run: Run) -> None:
    """From the spool it is moved, so that it is not stumbled over at every call."""
    store.spools[0].mkdir(parents=True)
    path = store.spools[0] / "new.json"
    path.write_text(json.dumps({**document(), "schema": 2, "colour": "red"}))
    outcome = ingest(store, store.spools[:1])
    assert outcome.exit_code == 2
    assert "a record of schema 2; this version reads up to 1" in str(outcome.problems[0])
    assert "Update this checkout" in str(outcome.problems[0])
    assert not path.exists()
    (kept,) = aside(store)
    kept.write_text(json.dumps(document()))  # as if this version knew the schema now
    assert summary(ingest(store, [kept.parent])) == (1, 0, 0)
    assert not list(kept.parent.iterdir())


_DEEP = "[" * 200_000 + "]" * 200_000
_FINE = json.dumps(document())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (_FINE[:200].encode(), "cut off"),
        (b"", "not JSON"),
        (b"\xff\xfe\x00{", "not JSON"),
        (_FINE.replace("passed", "pass\udcffed").encode(errors="surrogateescape"), "decode"),
        (_FINE.replace('"e2e"', '"e2e", "kind": "perf"').encode(), "'kind' is there twice"),
        (_FINE.replace("7.5", "NaN").encode(), "NaN is no number"),
        (_FINE.replace("7.5", "1e999").encode(), "finite"),
        (_FINE.replace("480", _DEEP).encode(), "nested deeper"),
        (_FINE.replace("480", "[" * 80 + "]" * 80).encode(), "nested deeper"),
        (_FINE.replace("480", "9" * 10_000).encode(), "not JSON"),
        (_FINE.replace("qwen3/", "<script>alert(1)</script>/").encode(), "cell: "),
        (_FINE.replace("qwen3/", "qwen3\\u0000/").encode(), "cell: "),
        (_FINE.replace("qwen3/", "qwen3\\u202e/").encode(), "cell: "),
        (_FINE.replace("qwen3/", "q" * 300 + "/").encode(), "255"),
        (_FINE.replace('"seconds"', '"run_url": "javascript:x()", "seconds"').encode(), "run_url"),
    ],
)
def test_what_is_no_record_is_told_and_kept(
    store: Store, tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    good = write(tmp_path / "good.json", record())
    outcome = ingest(store, [tmp_path / "bad.json", good])
    assert summary(outcome) == (1, 0, 1)
    assert f"{tmp_path}/bad.json" in str(outcome.problems[0])
    assert told in str(outcome.problems[0])
    assert [path.read_bytes() for path in aside(store)] == ([content] if content else [])


def test_file_of_a_gigabyte_is_not_read(store: Store, tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    for name in ("huge.json", "huge.jsonl"):
        with (tmp_path / name).open("wb") as file:
            os.truncate(file.fileno(), 2**30)  # takes no space, and reads as a gigabyte of NUL
    assert huge.stat().st_size == 2**30
    outcome = ingest(store, [huge, tmp_path / "huge.jsonl"])
    assert summary(outcome) == (0, 0, 2)
    assert "no record is that large" in str(outcome.problems[0])
    assert "huge.jsonl:1: more than" in str(outcome.problems[1])
    assert huge.exists()
    assert not aside(store)


def test_what_is_no_file_is_not_waited_for(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    outcome = ingest(store, [tmp_path / "pipe.json", tmp_path / "packed.jsonl.gz"])
    assert [p.exit_code for p in outcome.problems] == [3, 3]


def test_logs_are_cleaned_and_cut(any_store: Store, tmp_path: Path) -> None:
    """PostgreSQL takes no NUL in a text, and a page no terminal's colours."""
    log = "first\n" + "x" * 100_000 + "\x1b[31mred\x1b[0m \0 \x1b]0;title\x07 \x9b1m\r\nend \ud800"
    raw: dict[str, Any] = document(
        verdict="failed",
        error={"class": "E", "message": "\x1b[1mwhy\x1b[0m", "log_tail": log},
        proof={"text\0": ["a\0b", {"c": "\ud800"}]},
        runner="run\0ner",
    )
    (tmp_path / "r.json").write_text(json.dumps(raw))
    assert summary(ingest(any_store, [tmp_path / "r.json"])) == (1, 0, 0)
    (stored,) = any_store.records()
    assert stored.error is not None
    assert stored.error.message == "why"
    assert len(stored.error.log_tail) == 64_000
    assert stored.error.log_tail.startswith("[the end of ")
    assert stored.error.log_tail.endswith("xred �  \nend �")
    assert stored.proof == {"text�": ["a�b", {"c": "�"}]}
    assert stored.runner == "run�ner"
    assert summary(ingest(any_store, [tmp_path / "r.json"])) == (0, 1, 0)


def test_clock_in_the_future_is_told(any_url: str, tmp_path: Path, run: Run) -> None:
    now = datetime.now(UTC)
    write(
        tmp_path / "r.jsonl",
        record(started=now.isoformat()),
        record(started=(now + timedelta(days=400)).isoformat(), verdict="failed"),
    )
    code, out, err = run("ingest", tmp_path / "r.jsonl", "--store", any_url)
    assert code == 0
    assert out.startswith("2 records stored, 0 were there already, 1 with a clock that is ahead")
    assert "never speak for a cell" in err
    assert [one.verdict for one in Store(any_url).newest()] == ["passed"]


def test_store_that_fails_keeps_what_no_file_holds(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "_prepare", refuse)
    path = write(tmp_path / "r.jsonl", record(), record())
    outcome = ingest(store, [path])
    assert outcome.exit_code == 3
    assert "skipped" in str(outcome.problems[0])
    assert not store.spools[0].exists(), "the file is enough"
