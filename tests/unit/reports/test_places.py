"""No path of a machine leaves it: not in records, not on pages, not in exports or comments."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import matrix
from accuracy import records as accuracy_records
from ci import plan
from ci import records as ci_records
from ci.runners import CellError, Result
from ci.runners.simulated import Settings, Simulated
from reports import comment, derive, parquet, parse
from reports.places import ROOT, published, relative, without
from reports.provenance import failure
from reports.record import Record
from reports.site import details
from reports.store import Store
from reports.support import as_json
from tests.unit.reports.conftest import CELL, NOW, document

LOG = ROOT / "build" / "runs" / "20261121T000000Z-1" / "qwen3__base.log"
TRACE = f'File "{ROOT}/plugin/vllm_ascend/worker.py", line 3; {sys.prefix}/lib; {Path.home()}/x'


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (LOG, "build/runs/20261121T000000Z-1/qwen3__base.log"),
        ("/srv/runner/work/build/runs/1/a.log", "build/runs/1/a.log"),
        ("/var/lib/runs/1/a.log", "1/a.log"),
        ("/a.log", "a.log"),
        ("build/runs/1/a.log", "build/runs/1/a.log"),
    ],
)
def test_a_log_is_named_from_the_repository_on(path: Path | str, told: str) -> None:
    assert relative(path) == told


def test_a_text_loses_the_folders_of_its_machine() -> None:
    told = without(TRACE)
    assert told.startswith('File "plugin/vllm_ascend/worker.py", line 3; ')
    assert str(ROOT) not in told
    assert sys.prefix not in told
    assert f"{Path.home()}/" not in told


def made() -> list[Record]:
    """Records of a run and of an accuracy run that ended badly, as their own code makes them."""
    claims = matrix.load()
    cell = next(c for c in matrix.everything(claims) if c.id == CELL)
    (group,) = plan.make([cell], {CELL: 1.0}).groups
    now = datetime.now(UTC)
    error = CellError("Crash", f"died in {ROOT}/plugin/x.py", TRACE)
    result = Result(group.jobs[0], group, "error", now, 1.0, error, log=LOG)
    runner = Simulated(Settings(LOG.parent, lambda *_: {}, jobs=1))
    broken = accuracy_records.make_error(cell, OSError(f"{ROOT}/x"), TRACE, now, 1.0, LOG)
    return [ci_records.make(result, runner), broken]


def of_before() -> Record:
    """A record as an earlier version of another machine made it."""
    told = {"class": "Crash", "message": "died in /srv/w/ci/x.py", "log_tail": "at /srv/w/a.py"}
    return parse(
        {
            **document(verdict="error", error=told),
            "artifacts": ["/srv/w/build/runs/1/a.log", "/opt/elsewhere/b.log"],
        }
    )


def test_records_are_made_without_paths() -> None:
    for record in made():
        assert str(ROOT) not in record.to_json()
        assert record.artifacts == ("build/runs/20261121T000000Z-1/qwen3__base.log",)
        assert record.error is not None
        assert "plugin/vllm_ascend/worker.py" in record.error.log_tail
        assert published(record) is record


def test_those_of_before_are_shown_without() -> None:
    shown = published(of_before())
    assert shown.artifacts == ("build/runs/1/a.log", "elsewhere/b.log")
    assert shown.error is not None
    assert (shown.error.message, shown.error.log_tail) == ("died in ci/x.py", "at a.py")


def test_pages_exports_and_comments_have_none(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/r.sqlite")
    ran = made()
    for record in (*ran, of_before()):
        store.add(record)
    support = derive(matrix.load(), store, NOW)
    pages = [details.of_record(record) for record in store.records()]
    for text in (
        json.dumps(as_json(support)),
        json.dumps(pages),
        comment.render(ran),
        comment.render([of_before()]),
    ):
        assert CELL in text or "build/runs" in text
        assert "/srv/" not in text
        assert str(ROOT) not in text


def test_an_export_has_none_of_what_is_made_now_and_can_be_stored_again(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/r.sqlite")
    for record in made():
        store.add(record)
    (file, *_) = [p for p in parquet.export(store, tmp_path / "out") if p.stem == "records"]
    exported = list(parquet.documents(file))
    assert not any(str(ROOT) in text for text in exported)
    assert [store.add(parse(text)) for text in exported] == [False, False]


def test_what_goes_wrong_is_told_without_them() -> None:
    assert failure("OSError", f"{ROOT}/results: full", "").message == "results: full"
