"""A record is complete and does not contradict itself, and one from the future is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from reports import Record, RecordError, parse
from tests.unit.reports.conftest import document, record, versions


def test_round_trip_keeps_everything() -> None:
    original = record(
        verdict="failed",
        samples=[{"prompt": "ab12", "equal": False}],
        error={"class": "GateFailed", "message": "m", "log_tail": "a\nb"},
        run_url="https://example.org/1",
        artifacts=["log.txt"],
    )
    text = original.to_json()
    assert parse(text) == original
    assert json.loads(text)["schema"] == 1
    assert json.loads(text)["error"]["class"] == "GateFailed"


def test_every_record_has_an_id_of_its_own() -> None:
    assert record().id != record().id


def test_file_without_an_id_is_the_same_record_each_time() -> None:
    assert parse(document()) == parse(json.dumps(document()))
    assert parse(document()).id != parse(document(seconds=1.0)).id


def test_times_are_kept_in_utc() -> None:
    assert record(started="2026-11-21T18:00:00+08:00").started.isoformat() == (
        "2026-11-21T10:00:00+00:00"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proof": {}}, "cannot prove itself"),
        ({"verdict": "failed"}, "error has to say why"),
        ({"evidence": "hardware"}, "no hardware evidence"),
        ({"versions": versions(cann="8.5.0")}, "it ran on CANN 8.5.0"),
        ({"started": "2026-11-21T10:00:00"}, "timezone"),
        ({"seconds": -1}, "greater than or equal"),
        ({"metrics": {"x": {"value": float("nan"), "unit": "s"}}}, "finite"),
        ({"cell": "qwen3/base"}, "pattern"),
        ({"verdict": "ok"}, "passed"),
        ({"colour": "red"}, "Extra"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Record.model_validate({**document(), **changes})


def test_hardware_record_names_no_simulator() -> None:
    kept = versions(cannsim=None, driver="25.3.0")
    assert record(evidence="hardware", versions=kept).evidence == "hardware"


def test_record_of_a_newer_schema_is_refused_as_such() -> None:
    with pytest.raises(RecordError) as caught:
        parse({**document(), "schema": 2, "unheard_of": True}, origin="r.json")
    assert caught.value.exit_code == 2
    assert "r.json: a record of schema 2; this version reads up to 1" in str(caught.value)
    assert "Update" in str(caught.value)
    assert "unheard_of" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "cell"', "cut off"),
        ("{}", "'schema' is missing"),
        ("[1]", "not a record"),
        ('{"schema": 0}', "schema: "),
        ('{"schema": "1"}', "schema: "),
    ],
)
def test_what_is_no_record_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse(text)
