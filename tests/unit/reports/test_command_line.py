"""The commands print what they promise and end with the right codes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

import matrix
from reports import Store, spool
from tests.unit.reports.conftest import CELL, Run, document, record


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results/records.sqlite"


def test_status_of_an_empty_store(run: Run, url: str) -> None:
    code, out, _ = run("status", "--store", url)
    assert code == 0
    assert f"{CELL}\t○ never run" in out.splitlines()
    assert "n/a" not in out


def test_status_of_one_cell(run: Run, url: str) -> None:
    # Started now: the command compares with the clock, and the record must not be stale.
    now = datetime.now(UTC)
    Store(url).add(record(started=now.isoformat()))
    code, out, _ = run("status", "--store", url, "--cell", "qwen3/base/cann-9.1*/a2")
    assert code == 0
    assert out == f"{CELL}\t✔ passed\tsimulated\t{now:%Y-%m-%d %H:%M}Z\n"


def test_counts_of_every_kind(run: Run, url: str) -> None:
    Store(url).add(record(started=datetime.now(UTC).isoformat()))
    code, out, _ = run("status", "--store", url, "--counts")
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    assert header[:4] == ["kind", "cells", "supported", "passed"]
    counts = {kind: dict(zip(header[1:], map(int, found), strict=True)) for kind, *found in rows}
    assert [counts[kind]["passed"] for kind in ("e2e", "accuracy", "perf")] == [1, 0, 0]
    assert len(matrix.everything(matrix.load())) == counts["e2e"]["cells"]
    assert counts["e2e"]["never run"] == counts["e2e"]["supported"] - 1
    assert json.loads(run("status", "--store", url, "--counts", "--json")[1])["perf"]["passed"] == 0


def test_counts_by_feature_and_hardware(run: Run, url: str) -> None:
    Store(url).add(record(started=datetime.now(UTC).isoformat()))
    command = ("status", "--store", url, "--by", "feature", "--by", "hardware")
    code, out, _ = run(*command, "--cell", "qwen3/*/cann-9.1.0/*")
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    assert header[:4] == ["feature", "hardware", "supported", "passed"]
    counts = {(feature, on): list(map(int, found)) for feature, on, *found in rows}
    assert counts["base", "a2"][:2] == [1, 1]
    assert counts["base", "a3"][:2] == [1, 0]
    assert ("bfloat16", "300i-duo") not in counts  # a rule takes it away
    assert all(supported == sum(states) for supported, *states in counts.values())
    listed = json.loads(run(*command, "--json")[1])
    ours = next(row for row in listed if (row["feature"], row["hardware"]) == ("base", "a2"))
    assert ours["supported"] == ours["passed"] + ours["never-run"] > 100


def test_status_as_json(run: Run, url: str) -> None:
    _, out, _ = run("status", "--store", url, "--cell", CELL, "--json")
    assert [cell["state"] for cell in json.loads(out)["cells"]] == ["never-run"]


def test_status_of_a_mistyped_cell(run: Run, url: str) -> None:
    code, out, err = run("status", "--store", url, "--cell", "qwen3/bsae/*")
    assert (code, out) == (2, "")
    assert "Did you mean 'qwen3/base/*/*'?" in err


def test_ingest_of_files_keeps_them_and_counts(run: Run, url: str, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(record().to_json())
    assert run("ingest", path, "--store", url)[1].startswith("1 records stored, 0 were there")
    assert run("ingest", path, "--store", url)[1].startswith("0 records stored, 1 were there")
    assert path.exists()
    assert len(Store(url).records()) == 1


def test_ingest_of_the_spool_empties_it(run: Run, url: str, tmp_path: Path) -> None:
    kept = [spool.keep(record(), Store(url).spools) for _ in range(3)]
    code, out, _ = run("ingest", "--store", url)
    assert code == 0
    assert out.startswith("3 records stored")
    assert not any(path and path.exists() for path in kept)
    assert len(Store(url).records()) == 3


def test_ingest_goes_on_after_a_bad_file(run: Run, url: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"schema": 1, "cell": ')
    (tmp_path / "b.json").write_text(json.dumps({**document(), "schema": 7}))
    (tmp_path / "c.json").write_text(record().to_json())
    code, out, err = run("ingest", tmp_path, "--store", url)
    assert code == 2
    assert out.startswith("1 records stored")
    assert "a.json: not JSON" in err
    assert "b.json: a record of schema 7" in err


def test_ingest_of_a_missing_file(run: Run, url: str, tmp_path: Path) -> None:
    code, _, err = run("ingest", tmp_path / "none.json", "--store", url)
    assert code == 3
    assert "none.json: cannot be read" in err


def test_table_is_markdown(run: Run, url: str) -> None:
    code, out, _ = run("table", "--store", url)
    assert code == 0
    loaded = matrix.load()
    tables = len(loaded.cann) * len(loaded.hardware)
    assert sum(line.startswith("| --- | --- |") for line in out.splitlines()) == tables


def test_export_writes_a_whole_file(run: Run, url: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "support.json"
    assert run("export", "--store", url, "--out", out)[0] == 0
    assert json.loads(out.read_text())["schema"] == 1


def test_store_from_the_environment(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(url).add(record(started=datetime.now(UTC).isoformat()))
    monkeypatch.setenv("ASCEND_MATRIX_STORE", url)
    assert "✔ passed" in run("status", "--cell", CELL)[1]


def test_unusable_store_ends_with_code_3(run: Run) -> None:
    code, _, err = run("status", "--store", "nonsense")
    assert code == 3
    assert "no SQLAlchemy URL" in err
