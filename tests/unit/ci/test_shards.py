"""GitHub's jobs: one a cell, bundles above the limit, the order, labels, and the refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import matrix
from ci import catalogue, changes, cli, plan, shards
from ci.catalogue import Runner
from ci.errors import CiError, NothingSelectedError, UsageError
from ci.plan import Plan
from matrix.errors import InvalidData
from reports.record import Chip, Record, Versions
from reports.store import Store

from .conftest import make_cell


def runner(name: str = "one", **changes: object) -> Runner:
    values = {
        "name": name,
        "title": name,
        "hosted": False,
        "labels": ["self-hosted", name],
        "evidence": "simulated",
        "chips": ["Ascend910B1", "Ascend910_9391"],
        "cards": 8,
        "setup_minutes": 10,
        "max_minutes": 300,
        "parallel": 4,
    }
    return Runner.model_validate_json(json.dumps({**values, **changes}))


def planned(count: int, seconds: float | None = None, environments: int = 4) -> Plan:
    """A plan for made-up cells over up to four environments (two chips, two CANN versions)."""
    cells = [
        make_cell(
            model=f"m{i}",
            hardware=("a2", "a3")[i % environments % 2],
            cann=("9.1.0", "8.5.0")[i % environments // 2],
        )
        for i in range(count)
    ]
    return plan.make(
        cells, {cell.id: seconds or 5.0 + i * 37 % 101 for i, cell in enumerate(cells)}
    )


def test_each_cell_has_a_job_of_its_own_and_the_longest_comes_first() -> None:
    made = shards.cut(planned(256), [runner()])
    assert len(made) == 256
    assert all(len(shard.jobs) == 1 for shard in made)
    estimates = [shard.estimate for shard in made]
    assert estimates == sorted(estimates, reverse=True)


def test_a_plan_for_three_hundred_cells_fits_into_one_matrix() -> None:
    chosen = planned(300)
    made = shards.cut(chosen, [runner()])
    assert len(made) == shards.MAX_JOBS == 256
    ran = [job.cell.id for shard in made for job in shard.jobs]
    assert sorted(ran) == sorted(job.cell.id for job in chosen.jobs), "each cell once"
    for shard in made:
        cells = [job.cell for job in shard.jobs]
        assert {(cell.hardware.soc, cell.cann.version) for cell in cells} == {
            (shard.chip, shard.cann)
        }
    longest_cell = max(job.estimate for job in chosen.jobs)
    assert made[0].estimate == longest_cell, "the short cells are bundled, so nothing gets longer"


def test_the_matrix_is_what_a_workflow_reads() -> None:
    made = shards.matrix(shards.cut(planned(300), [runner(image="image:1")]))["include"]
    json.dumps(made)
    assert len({entry["key"] for entry in made}) == 256
    assert sum(len(entry["cells"].split()) for entry in made) == 300
    bundle = next(entry for entry in made if " and " in entry["name"])
    assert bundle["labels"] == ["self-hosted", "one"]
    assert bundle["image"] == "image:1"
    assert bundle["timeout"] == 10 + len(bundle["cells"].split()), "a minute's limit for each cell"


@given(
    count=st.integers(1, 60), limit=st.integers(4, 20), environments=st.integers(1, 4), s=st.data()
)
def test_no_cell_is_lost_or_run_twice(
    count: int, limit: int, environments: int, s: st.DataObject
) -> None:
    chosen = planned(count, s.draw(st.one_of(st.none(), st.floats(0.1, 60))), environments)
    made = shards.cut(chosen, [runner()], limit)
    assert len(made) == min(count, limit)
    ran = [job.cell.id for shard in made for job in shard.jobs]
    assert sorted(ran) == sorted(job.cell.id for job in chosen.jobs)
    assert all(shard.jobs for shard in made)


def test_an_empty_plan_is_an_error() -> None:
    with pytest.raises(NothingSelectedError) as caught:
        shards.cut(Plan(()), [runner()])
    assert caught.value.exit_code == 5


def test_a_cell_goes_to_the_first_runner_that_can_take_it() -> None:
    small = runner("small", cards=1)
    old = runner("old", cann=["8.5.0"])
    big = runner("big")
    cells = [
        make_cell(feature="one"),
        make_cell(feature="two", cards=2),
        make_cell(feature="three", cards=2, cann="8.5.0"),
    ]
    chosen = plan.make(cells, {cell.id: 1.0 for cell in cells})
    made = shards.cut(chosen, [small, old, big])
    where = {shard.jobs[0].cell.feature.name: shard.runner.name for shard in made}
    assert where == {"one": "small", "two": "big", "three": "old"}


def test_a_cell_that_no_runner_takes_is_named() -> None:
    cell = make_cell(cards=4)
    with pytest.raises(UsageError, match=cell.id) as caught:
        shards.cut(plan.make([cell], {cell.id: 1.0}), [runner(cards=2)])
    assert "4 cards of Ascend910B1" in str(caught.value)


def test_more_environments_than_jobs() -> None:
    with pytest.raises(UsageError, match="4 environments do not fit into 3 jobs"):
        shards.cut(planned(8), [runner()], limit=3)


def test_a_job_that_its_runner_would_end_is_refused() -> None:
    with pytest.raises(CiError, match="would take about 20 minutes") as caught:
        shards.cut(planned(10, 60.0, 1), [runner(max_minutes=15)], limit=1)
    assert caught.value.exit_code == 3


# --------------------------------------------------------------------------------- the command line


def run(tmp_path: Path, *arguments: str) -> int:
    return cli.main(["plan", "--store", f"sqlite:///{tmp_path}/records.sqlite", *arguments])


def test_the_plan_of_the_real_matrix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    assert run(tmp_path, "--select", "nightly", "--github-output") == 0
    told = capsys.readouterr()
    entries = json.loads(told.out)["include"]
    assert len(entries) >= 20
    assert all(entry["labels"] == ["ubuntu-24.04"] for entry in entries)
    assert f"in {len(entries)} jobs" in told.err
    names = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert json.loads(names["matrix"])["include"] == entries
    assert names["jobs"] == str(len(entries))


def test_three_hundred_cells_with_estimates_from_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [make_cell(model=f"m{i}", cann=("9.1.0", "8.5.0")[i % 2]) for i in range(300)]
    monkeypatch.setattr(matrix, "select", lambda *_: cells)
    cells[7] = make_cell(feature="slow")
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    store.add(a_record(cells[7].id, seconds=777.0))
    file = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    assert run(tmp_path, "--github-output") == 0
    entries = json.loads(capsys.readouterr().out)["include"]
    assert len(entries) == 256
    assert sum(len(entry["cells"].split()) for entry in entries) == 300
    assert entries[0]["cells"] == cells[7].id, "the longest comes first, and alone"
    assert entries[0]["estimate"] == 777
    assert entries[-1]["estimate"] == plan.DEFAULT_ESTIMATE_S["inprocess"]
    assert len(file.read_text()) < 200_000, "GitHub takes a million characters"


def a_record(cell: str, seconds: float) -> Record:
    return Record(
        cell=cell,
        kind="e2e",
        verdict="passed",
        evidence="simulated",
        versions=Versions(cann=cell.split("/")[2].removeprefix("cann-")),
        hardware=Chip(chip="Ascend910B1", cards=1),
        runner="simulated",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=seconds,
        proof={"launches": 1},
    )


def test_a_change_that_can_affect_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes.Revision, "changed", lambda _: ["docs/index.md"])
    assert run(tmp_path, "--changed-from", "HEAD") == 5
    told = capsys.readouterr()
    assert told.out == ""
    assert "nothing that changed since HEAD can affect a cell" in told.err
    assert run(tmp_path, "--changed-from", "HEAD", "--harmless-is-fine") == 0
    assert json.loads(capsys.readouterr().out) == {"include": []}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--runner", "github-hostde"], 2, "Did you mean 'github-hosted'?"),
        (["--max-jobs", "257"], 2, "--max-jobs 257: a matrix has 1 to 256 jobs"),
        (["--github-output"], 2, "GITHUB_OUTPUT is not set"),
        (["no-such-model/*"], 2, "no-such-model/*"),
        (["--budget", "0.01"], 5, "no selected cell fits"),
    ],
)
def test_bad_plans(
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    assert run(tmp_path, *arguments) == code
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


# ------------------------------------------------------------------------------------ the catalogue


def test_the_catalogue_is_valid_and_labels_tell_runners_apart() -> None:
    assert "github-hosted" in catalogue.load().names


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("hosted: true", "hosted: false", "'self-hosted' belongs to"),
        ("parallel: 20", "paralel: 20", "Did you mean 'parallel'?"),
        ("name: fleet-simulated", "name: github-hosted", "two runners have the same name"),
        ("setup_minutes: 40", "setup_minutes: 400", "leaves no time"),
    ],
)
def test_a_wrong_catalogue_names_the_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = tmp_path / "runners.yaml"
    file.write_text(catalogue.FILE.read_text().replace(old, new, 1))
    with pytest.raises(InvalidData) as caught:
        catalogue.load(file)
    assert words in str(caught.value)
    assert "runners.yaml:" in str(caught.value)
