"""A night runs every part whatever becomes of the others, and its exit code is the worst."""

from __future__ import annotations

import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ci import cli, environment, nightly
from ci.nightly import Part
from reports.cli import of_run
from reports.store import Store
from tests.unit.reports.conftest import record

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
SCORED = "smollm2-135m/base/cann-9.1.0/a2"


@pytest.fixture(autouse=True)
def _no_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the real store."""
    monkeypatch.setenv("ASCEND_MATRIX_STORE", f"sqlite:///{tmp_path}/default/records.sqlite")


def fake(name: str, code: int, folder: Path, verdicts: tuple[str, ...] = ()) -> Part:
    """A part that notes that it ran, writes cells with these verdicts, and ends with a code."""
    outcome = folder / f"{name}.json"
    kind: Any = name if name in ("accuracy", "perf") else "e2e"
    cells = [
        {"verdict": v, "record": record(f"m{n}/base/cann-9.1.0/a2", kind=kind).document()}
        for n, v in enumerate(verdicts)
    ]
    program = (
        "import pathlib, sys\n"
        f"open({str(folder / 'order')!r}, 'a').write({name!r} + '\\n')\n"
        f"text = {json.dumps({'cells': cells})!r}\n"
        f"if {bool(verdicts)}: pathlib.Path({str(outcome)!r}).write_text(text)\n"
        f"import os, signal\n"
        f"if {code} < 0: os.kill(os.getpid(), {-code})\n"
        f"sys.exit({code})\n"
    )
    return Part(name, (sys.executable, "-c", program), outcome if verdicts is not None else None)


def night(parts: list[Part], folder: Path, file: Path | None = None) -> tuple[int, str]:
    said: list[str] = []
    store = Store(f"sqlite:///{folder}/records.sqlite")
    code = nightly.run(parts, folder, file, NOW, store, said.append)
    return code, "\n".join(said)


def test_a_kind_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    parts = [
        fake("e2e", 1, tmp_path, ("passed", "failed")),
        fake("accuracy", -9, tmp_path),
        Part("perf", (str(tmp_path / "no-such-program"),), tmp_path / "perf.json"),
        fake("ingest", 0, tmp_path),
        fake("comment", 0, tmp_path),
    ]
    code, said = night(parts, tmp_path, tmp_path / "out" / "night.json")
    assert code == 1
    assert (tmp_path / "order").read_text().split() == ["e2e", "accuracy", "ingest", "comment"]
    summary = json.loads((tmp_path / "out" / "night.json").read_text())
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["records"] == 2
    assert summary["exit_code"] == 1
    told = {name: (p["exit_code"], p["verdicts"]) for name, p in summary["parts"].items()}
    assert told["e2e"] == (1, {"passed": 1, "failed": 1})
    assert told["accuracy"] == (137, None)
    assert told["perf"] == (3, None)
    assert "1 passed, 1 failed" in said
    assert "no cell ended" in said


def test_the_comment_is_made_of_the_cells_of_every_kind(tmp_path: Path) -> None:
    parts = [
        fake("e2e", 0, tmp_path, ("passed", "passed")),
        fake("perf", 0, tmp_path, ("passed",)),
        fake("comment", 0, tmp_path),
    ]
    assert night(parts, tmp_path)[0] == 0
    assert [r.kind for r in of_run(tmp_path / "records.json")] == ["e2e", "e2e", "perf"]


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 4, 0], 4),
        ([4, 5], 5),
        ([5, 2], 2),
        ([2, 3], 3),
        ([9, 2], 9),
        ([10, 9], 10),
        ([10, 3], 3),
        ([3, 1, 2], 1),
        ([0, 137], 3),
        ([4, 99], 3),
        ([1, 130], 130),
    ],
)
def test_the_worst_exit_code(codes: list[int], worst: int) -> None:
    assert nightly.worst(codes) == worst


def test_an_interrupt_ends_the_night(tmp_path: Path) -> None:
    parts = [fake("e2e", 130, tmp_path), fake("accuracy", 0, tmp_path)]
    assert night(parts, tmp_path)[0] == 130
    assert (tmp_path / "order").read_text().split() == ["e2e"]


def test_a_request_to_end_reaches_the_part(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, time\n"
        f"def end(*_): pathlib.Path({str(tmp_path / 'ended')!r}).touch(); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    ended = nightly.execute(Part("e2e", (sys.executable, "-c", program)), tmp_path)
    assert ended.exit_code == 130
    assert (tmp_path / "ended").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_outcome_that_is_cut_off_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "e2e.json").write_text('{"cells": [')
    ended = nightly.execute(fake("e2e", 0, tmp_path), tmp_path)
    assert ended.as_json()["cells"] is None


def test_tables_go_to_files(tmp_path: Path) -> None:
    part = Part("table-e2e", (sys.executable, "-c", "print('| a |')"))
    assert nightly.execute(part, tmp_path).exit_code == 0
    assert (tmp_path / "table-e2e.md").read_text() == "| a |\n"


# ---------------------------------------------------------------------------------------- planning


def commands(*arguments: str, stored: tuple[Any, ...] = ()) -> dict[str, str]:
    options = cli.parse(["nightly", *arguments])
    parts = nightly.plan(options, {"accuracy": stored, "perf": ()}, Path("/night"))
    return {part.name: " ".join(part.command[1:]) for part in parts}


def test_the_plan_has_every_kind_and_what_is_made_of_records() -> None:
    made = commands("--budget", "30", "--base", "abc", "--store", "sqlite:///x")
    assert list(made) == [
        *("e2e", "accuracy", "perf", "ingest"),
        *("table-e2e", "table-accuracy", "table-perf", "comment", "site"),
    ]
    assert made["e2e"] == (
        "-m ci e2e --select nightly --budget 30 --learn --store sqlite:///x --json /night/e2e.json"
    )
    assert made["perf"] == (
        "-m perf compare --base abc --store sqlite:///x --json /night/perf.json"
    )
    assert "--baseline" not in made["accuracy"]
    assert all("--store sqlite:///x" in command for command in made.values())


def test_accuracy_is_compared_once_there_is_a_run_that_passed() -> None:
    failed = record(SCORED, kind="accuracy", verdict="failed")
    passed = record(SCORED, kind="accuracy")
    kinds = ("--kinds", "accuracy")
    assert "--baseline" not in commands(*kinds, stored=(failed,))["accuracy"]
    assert "--baseline latest" in commands(*kinds, stored=(passed, failed))["accuracy"]


def test_kinds_that_are_left_out() -> None:
    assert "perf" not in commands("--kinds", "e2e,accuracy")
    assert list(commands("--kinds", "accuracy"))[:2] == ["accuracy", "ingest"]


def test_performance_is_compared_with_what_was_judged_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "_commit", {"HEAD": "c" * 40, "a" * 40: "a" * 40}.get)
    judged = {**record().versions.model_dump(), "commit": "a" * 40}
    lost = {**judged, "commit": "b" * 40}
    store = Store(f"sqlite:///{tmp_path}/r.sqlite")
    for number, versions in enumerate((judged, lost)):
        started = f"2026-11-0{number + 1}T00:00:00Z"
        store.add(record(kind="perf", versions=versions, started=started))
    store.add(record())
    stored = store.runs("perf")
    assert nightly.last_commit(stored) == "a" * 40
    with pytest.raises(nightly.UsageError, match="no commit to compare performance with"):
        nightly.last_commit([])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--select", "nightlyy"], "nightly"),
        (["--store", "nonsense"], "--store nonsense"),
    ],
)
def test_bad_usage(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert cli.main(["nightly", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_kind_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["nightly", "--kinds", "e2e,speed"])
    assert ended.value.code == 2
    assert "'speed' is no kind; there are e2e, accuracy, perf" in capsys.readouterr().err
