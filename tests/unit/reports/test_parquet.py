"""What pandas reads is what the store holds, and can be stored again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from reports import Record, Store, parquet
from reports.ingest import ingest
from tests.unit.reports.conftest import Run, record


@pytest.fixture
def some(any_store: Store) -> list[Record]:
    """Records in the store, oldest first; the last one's clock was ahead."""
    ahead = datetime.now(UTC) + timedelta(days=1)
    made = [
        record(started="2026-11-01T00:00:00.25Z", metrics={}, timings={}),
        record(
            started="2026-11-02T00:00:00Z",
            verdict="failed",
            metrics={"a/score": {"value": 0.25, "unit": "share"}, "b": {"value": 3, "unit": "s"}},
            run_url="https://example.org/1",
        ),
        record(started=ahead.isoformat(), kind="perf"),
    ]
    list(any_store.add_all(made))
    return made


def test_records(any_store: Store, some: list[Record], tmp_path: Path) -> None:
    found = pd.read_parquet(parquet.export(any_store, tmp_path)[0])
    assert list(found["id"]) == [one.id for one in some]
    assert list(found["started"]) == [pd.Timestamp(one.started) for one in some]
    assert str(found["started"].dtype) == "datetime64[us, UTC]"
    assert found["seconds"].dtype == "float64"
    assert list(found["ahead"]) == [False, False, True]
    assert list(found["verdict"]) == ["passed", "failed", "passed"]
    assert list(found["cann"]) == ["9.1.0"] * 3
    assert list(found["model"] + "/" + found["feature"]) == ["qwen3/base"] * 3
    assert list(found["error_message"].fillna("")) == ["", "token 7 differs", ""]
    assert found["received"].notna().all()


def test_metrics(any_store: Store, some: list[Record], tmp_path: Path) -> None:
    found = pd.read_parquet(parquet.export(any_store, tmp_path)[1])
    own = found[found["record"] == some[1].id].set_index("metric")
    assert own["value"].to_dict() == {
        "a/score": 0.25,
        "b": 3.0,
        **{f"timings/{name}": seconds for name, seconds in some[1].timings.items()},
    }
    assert own.loc["a/score", "unit"] == "share"
    assert found["value"].dtype == "float64"
    assert some[0].id not in set(found["record"])


def test_back_again(any_store: Store, some: list[Record], tmp_path: Path) -> None:
    records, _ = parquet.export(any_store, tmp_path)
    other = Store(f"sqlite:///{tmp_path}/other.sqlite")
    assert ingest(other, [records]).new == len(some)
    assert other.records() == some


def test_empty_store_has_tables_without_rows(any_store: Store, tmp_path: Path) -> None:
    for path in parquet.export(any_store, tmp_path):
        assert len(pd.read_parquet(path)) == 0
        assert "started" in pd.read_parquet(path).columns


def test_command(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    Store(sqlite_url).add(record())
    out = tmp_path / "tables"
    code, told, _ = run("export", "parquet", out, "--store", sqlite_url)
    assert (code, told) == (0, f"{out}/records.parquet\n{out}/metrics.parquet\n")
    code, _, err = run("ingest", out / "metrics.parquet", "--store", sqlite_url)
    assert code == 3
    assert "name records.parquet" in err
    (tmp_path / "file").write_text("")
    assert run("export", "parquet", tmp_path / "file", "--store", sqlite_url)[0] == 3
