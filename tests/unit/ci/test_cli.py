"""The command line: exit codes, selection flags, records, and the outcome for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import pytest

import matrix
from ci import checkpoints, cli, environment, learned, nightly
from ci.checkpoints import Checkpoints, Failure
from ci.runners.simulated import Settings
from matrix import Cell
from matrix.schema import ExpectedFailure
from reports.store import Store
from tests.unit.matrix.conftest import Data, data  # noqa: F401

from .conftest import make_cell

Run = Callable[..., int]

BODIES = ("passes", "fails", "crashes", "returns_nonsense", "raises")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/records.sqlite")


@pytest.fixture
def failures() -> dict[str, Failure]:
    """The checkpoints that cannot be made."""
    return {}


@pytest.fixture
def run(
    tmp_path: Path, store: Store, failures: dict[str, Failure], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs the command line over made-up cells, a light worker and a store of its own."""
    cells = [make_cell(body) for body in BODIES]

    def select(_matrix: object, _cells: object, patterns: list[str], _name: object) -> list[Cell]:
        wanted = patterns or ["passes"]
        return [cell for cell in cells if cell.feature.body.partition(":")[2] in wanted]

    def settings(folder: Path, _variables: object, jobs: int, traced: tuple[str, ...]) -> Settings:
        ours = ("tests/unit/ci",) if traced else ()
        return Settings(folder, _no_variables, jobs=jobs, imports=("json",), traced=ours)

    def prepare(models: list[str], _note: object) -> Checkpoints:
        return Checkpoints({m: tmp_path for m in models if m not in failures}, failures)

    monkeypatch.setattr(matrix, "select", select)
    monkeypatch.setattr(cli, "Settings", settings)
    monkeypatch.setattr(checkpoints, "prepare", prepare)
    monkeypatch.setattr(cli, "run_folder", lambda _: tmp_path)
    return lambda *arguments: cli.main(
        ["e2e", "--store", f"sqlite:///{tmp_path}/records.sqlite", *arguments]
    )


def _no_variables(_chip: str, _cann: str, _devices: int) -> Mapping[str, str]:
    return {}


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (["passes"], 0),
        (["passes", "fails"], 1),
        (["passes", "crashes"], 3),
        (["fails", "crashes"], 1),
        (["raises"], 3),
        (["returns_nonsense"], 3),
    ],
)
def test_exit_codes_of_runs(run: Run, store: Store, cells: list[str], code: int) -> None:
    assert run(*cells) == code
    assert len(store.records()) == len(cells), "every cell leaves a record, whatever its end"


def test_a_run_that_learns_keeps_what_cells_that_passed_ran(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "learned.json"
    assert run("--learn", "--map", str(file), "passes", "fails") == 1
    ((cell, entry),) = learned.load(file).cells.items()
    assert cell.split("/")[1] == "passes"
    assert ("tests/unit/ci/bodies.py", "passes") in entry.units


def test_a_record_says_what_ran_where_and_when(run: Run, store: Store) -> None:
    assert run("passes") == 0
    (record,) = store.records()
    assert record.evidence == "simulated"
    assert record.runner == "simulated"
    assert (record.hardware.chip, record.hardware.cards) == ("Ascend910B1", 1)
    assert record.versions.cann == "9.1.0"
    assert record.versions.driver is None
    assert record.versions.python == sys.version.split()[0]
    assert record.timings == {"import": 0.1, "engine_start": 0.2, "generation": 0.3}
    assert record.seconds > 0


def test_the_outcome_for_machines(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "outcome.json"
    assert run("passes", "fails", "--json", str(file)) == 1
    outcome = json.loads(file.read_text())
    summary = {name: count for name, count in outcome["summary"].items() if count}
    assert summary == {"passed": 1, "failed": 1}
    by_id = {cell["id"]: cell for cell in outcome["cells"]}
    failed = by_id["tiny/fails/cann-9.1.0/a2"]
    assert failed["verdict"] == "failed"
    assert failed["kind"] == "e2e"
    assert failed["evidence"] == "simulated"
    assert failed["record"]["error"]["class"] == "GateFailed"


Expect = Callable[..., None]


@pytest.fixture
def expect(monkeypatch: pytest.MonkeyPatch) -> Expect:
    """Makes failures expected of cells of these bodies."""

    def call(*bodies: str) -> None:
        entry = ExpectedFailure(
            name="known",
            cells=tuple(f"tiny/{body}/cann-9.1.0/a2" for body in bodies),
            reason="The operator is being fixed.",
            issue="https://example.org/1",
            owner="somebody",
            expires=date(2999, 1, 1),
        )
        claims = replace(matrix.load(), expected={"known": entry})
        monkeypatch.setattr(matrix, "load", lambda **_: claims)

    return call


def test_an_expected_failure_does_not_make_the_run_fail(
    run: Run, expect: Expect, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expect("fails", "crashes")
    assert run("passes", "fails", "crashes", "--json", str(tmp_path / "o.json")) == 0
    out = capsys.readouterr().out
    assert "1 passed, 2 expected failure (simulated)" in out
    assert "somebody until 2999-01-01; GateFailed: token 3" in out
    summary = json.loads((tmp_path / "o.json").read_text())["summary"]
    assert summary["expected failure"] == 2
    assert {r.verdict for r in store.records()} == {"passed", "failed", "error"}
    assert run("fails", "raises") == 3, "another cell's trouble counts as ever"


def test_a_pass_where_a_failure_is_expected_makes_the_run_fail(
    run: Run, expect: Expect, capsys: pytest.CaptureFixture[str]
) -> None:
    expect("passes")
    assert run("passes") == 1
    out = capsys.readouterr().out
    assert "1 unexpected pass (simulated)" in out
    assert "tiny/passes/cann-9.1.0/a2 passes, and 'known' (somebody, " in out
    assert "remove the row from matrix/expected.yaml" in out


@pytest.mark.parametrize("command", ["e2e", "plan", "nightly"])
def test_a_row_past_its_day_ends_the_command_before_anything_is_run(
    data: Data,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    row = "{name: known, cells: [qwen3/base/cann-9.1.0/a2], reason: It is being fixed., "
    row += "issue: 'https://example.org/1', owner: somebody, expires: 2020-01-01}"
    data.replace("expected.yaml", "expected: []\n", f"expected:\n  - {row}\n")
    monkeypatch.setattr(matrix, "load", partial(matrix.load, data.root))
    monkeypatch.setattr(cli, "execute", lambda *_: pytest.fail("something ran"))
    monkeypatch.setattr(nightly, "run", lambda *_: pytest.fail("something ran"))
    assert cli.main([command, "--store", f"sqlite:///{tmp_path}/records.sqlite"]) == 9
    assert "the expected failure 'known' expired on 2020-01-01" in capsys.readouterr().err


def test_the_table_and_the_summary(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("passes", "fails")
    out = capsys.readouterr().out
    assert "1 passed, 1 failed (simulated)" in out
    assert "tiny/passes/cann-9.1.0/a2" in out
    assert "chip=Ascend910B1" in out, "the proof in short"
    assert "token 3 of prompt 1 differs" in out


def test_a_store_that_fails_costs_no_record(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASCEND_MATRIX_SPOOL", str(tmp_path / "spool"))
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert run("passes", "--store", f"sqlite:///{blocked}/records.sqlite") == 3
    (kept,) = (tmp_path / "spool").glob("*.json")
    assert json.loads(kept.read_text())["verdict"] == "passed"
    assert str(kept) in capsys.readouterr().out.replace("\n", "")


def test_a_disk_that_is_full_before_anything_ran(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: Path) -> Path:
        raise OSError(28, "No space left on device", "build/runs")

    monkeypatch.setattr(cli, "run_folder", full)
    assert run("passes") == 3
    assert "build/runs: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("code", [2, 3])
def test_a_checkpoint_that_cannot_be_made_gives_its_own_exit_code(
    run: Run, store: Store, failures: dict[str, Failure], code: int
) -> None:
    failures["tiny"] = Failure("the GGUF is damaged", code)
    assert run("passes") == code
    (record,) = store.records()
    assert record.error is not None
    assert (record.verdict, record.error.class_) == ("error", "CheckpointError")


def test_list_runs_nothing(run: Run, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("passes", "crashes", "--list") == 0
    out = capsys.readouterr().out
    assert "tiny/crashes/cann-9.1.0/a2  about 15 s" in out
    assert "2 cells, about 15 s with 2 at a time" in out.replace("30 s with 1", "15 s with 2")
    assert store.records() == []


def test_a_budget_in_which_nothing_fits_selects_nothing(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("passes", "--budget", "0.01") == 5
    assert "no selected cell fits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["smollm2-135/base/*/a2"], "Did you mean 'smollm2-135m/base/*/a2'?"),
        (["--select", "smok"], "Did you mean 'smoke'?"),
        (["--runner", "github"], "the runners of this version are: simulated"),
        (["--jobs", "0"], "at least one cell"),
        (["--store", "nonsense"], "no SQLAlchemy URL"),
        (["--changed-from", "no-such-revision"], "no-such-revision"),
    ],
)
def test_bad_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["e2e", *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--budget", "-1"], ["--no-such-flag"], ["--jobs", "x"]])
def test_bad_flags(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["e2e", *arguments])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_list_of_the_real_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, file = f"sqlite:///{tmp_path}/records.sqlite", tmp_path / "plan.json"
    assert cli.main(["e2e", "--list", "--store", url, "--json", str(file)]) == 0
    assert "Ascend910B1, CANN 9.1.0, 2 devices:" in capsys.readouterr().out
    listed = json.loads(file.read_text())
    assert listed["summary"]["cells"] == len(listed["cells"]) >= 20
    assert not (tmp_path / "records.sqlite").exists(), "asking leaves nothing behind"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit, in the place of the real one."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    for name in ("docs/page.md", "plugin/code.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("changed", [[], ["docs/page.md", "README.md", "docs/new.md"]])
def test_a_change_of_documentation_selects_nothing(checkout: Path, changed: list[str]) -> None:
    for name in changed:
        (checkout / name).write_text("two\n")
    assert cli.main(["e2e", "--changed-from", "HEAD"]) == 5


@pytest.mark.parametrize("changed", ["plugin/code.py", "plugin/new.py"])
def test_a_change_of_code_selects_what_a_pull_request_needs(
    checkout: Path, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / changed).write_text("two\n")
    url = f"sqlite:///{checkout}/none.sqlite"
    assert cli.main(["e2e", "--changed-from", "HEAD", "--list", "--store", url]) == 0
    assert "cells, about" in capsys.readouterr().out
