"""The workflows: generated, up to date, sound to two checkers, and light where they say so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from ci import catalogue, cli, environment, learned, workflows
from ci.catalogue import Catalogue
from ci.environment import ROOT
from ci.errors import UsageError

MADE = workflows.generate(catalogue.load())
WORKFLOWS = [path for path in MADE if path.parent.name == "workflows"]


def load(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(MADE[path])
    # YAML reads the key `on` as a truth value.
    return {"on" if key is True else key: value for key, value in loaded.items()}


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{p.stem}:{n}", j) for p in WORKFLOWS for n, j in load(p)["jobs"].items()]


def test_generating_them_again_changes_nothing() -> None:
    assert workflows.differences(MADE) == []
    assert workflows.generate(catalogue.load()) == MADE


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with generated workflows, in the place of the real one."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    workflows.write(MADE, tmp_path)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    for name in ("generate", "differences", "write"):
        function = getattr(workflows, name)
        monkeypatch.setattr(workflows, name, lambda made, f=function: f(made, tmp_path))
    return tmp_path


def test_an_edit_is_noticed_and_undone(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["workflows", "--check"]) == 0
    folder = checkout / ".github" / "workflows"
    with (folder / "nightly.yml").open("a") as file:
        file.write("# by hand\n")
    (folder / "pull-request.yml").unlink()
    (folder / "old.yml").write_text(f"{workflows.MARK} once\n")
    (folder / "by-hand.yml").write_text("name: somebody's own\n")
    assert cli.main(["workflows", "--check"]) == 2
    told = capsys.readouterr().err
    assert "nightly.yml differs" in told
    assert "pull-request.yml is missing" in told
    assert "old.yml has no template any more" in told
    assert "by-hand" not in told
    assert cli.main(["workflows"]) == 0
    assert cli.main(["workflows", "--check"]) == 0
    assert not (folder / "old.yml").exists()
    assert (folder / "by-hand.yml").exists()


def test_a_change_of_the_catalogue_reaches_the_workflows() -> None:
    known = catalogue.load()
    runners = [known.runners[0].model_copy(update={"labels": ("ubuntu-26.04",)})]
    fleet = known.runners[1].model_copy(
        update={"labels": ("self-hosted", "npu"), "image": "image:1"}
    )
    made = workflows.generate(Catalogue(runners=(*runners, fleet)))
    text = "".join(made.values())
    assert "ubuntu-24.04" not in text
    assert "container: ${{ matrix.image }}" in text
    assert 'labels: ["npu"]' in made[Path(".github/actionlint.yaml")]


def test_pull_requests_need_a_machine_of_githubs_own() -> None:
    with pytest.raises(UsageError, match="hosted: true"):
        workflows.generate(Catalogue(runners=catalogue.load().runners[1:]))


# ------------------------------------------------------------------------------------ what they are


@pytest.mark.parametrize(("name", "job"), jobs())
def test_every_job_has_a_limit_and_least_permissions(name: str, job: dict[str, Any]) -> None:
    assert job["timeout-minutes"]
    written = {k for k, v in job["permissions"].items() if v == "write"}
    allowed = {"pull-requests"} if name == "pull-request-comment:comment" else set()
    assert written <= allowed
    for step in job["steps"]:
        if "uses" in step:
            assert len(step["uses"].partition("@")[2]) == 40, "a commit, not a tag that can move"


@pytest.mark.parametrize("path", WORKFLOWS, ids=str)
def test_every_workflow_begins_without_rights_and_does_not_pile_up(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["group"]


def test_the_code_of_a_pull_request_sees_no_secret() -> None:
    path = next(path for path in WORKFLOWS if path.name == "pull-request.yml")
    assert set(load(path)["on"]) == {"pull_request"}
    assert "secrets." not in MADE[path]
    assert "github.token" not in MADE[path]
    assert "self-hosted" not in MADE[path]
    assert "write" not in MADE[path]


def test_every_job_of_a_pull_request_counts_for_its_result() -> None:
    path = next(path for path in WORKFLOWS if path.name == "pull-request.yml")
    found = load(path)["jobs"]
    assert {*found["result"]["needs"], "result"} == set(found)


def test_every_nox_session_and_command_that_they_call_exists() -> None:
    text = "".join(MADE.values())
    sessions = {name for _, job in jobs() for step in job["steps"] for name in called(step)}
    noxfile = (ROOT / "noxfile.py").read_text()
    assert sessions
    for session in sessions:
        assert f"def {session}(session: nox.Session)" in noxfile
    for command in ("plan", "comment", "ingest", "learned"):
        assert f"ci {command} " in text or f"ci -- {command} " in text
        assert command in cli.COMMANDS


def test_what_a_night_learns_is_what_plans_of_pull_requests_fetch() -> None:
    nightly, pull = (load(Path(f".github/workflows/{n}.yml")) for n in ("nightly", "pull-request"))
    cells = nightly["jobs"]["cells"]["steps"]
    (run,) = [step["run"] for step in cells if "nox -s e2e" in step.get("run", "")]
    (kept,) = [step["with"] for step in cells if "learned" in step.get("with", {}).get("name", "")]
    assert f"--learn --map {kept['path']}" in run
    publish = {step.get("name", ""): step for step in nightly["jobs"]["publish"]["steps"]}
    fetched = publish["Fetch what this night's cells ran"]["with"]
    assert fnmatchcase(kept["name"], fetched["pattern"])
    assert publish["Put it together"]["run"].endswith(f"-- learned {fetched['path']}")
    saved = publish["Keep it for the plans of pull requests"]["with"]
    (restored,) = [
        step["with"]
        for step in pull["jobs"]["plan"]["steps"]
        if step.get("with", {}).get("path") == str(learned.FILE)
    ]
    assert saved["path"] == restored["path"]
    assert saved["key"].startswith(restored["restore-keys"])
    assert f"-{learned.SCHEMA}-" in restored["restore-keys"], "a plan gets no map it cannot read"
    steps = [s.get("run", "") for _, job in jobs() for s in job["steps"]]
    assert sum("--learn" in step for step in steps) == 1, "a pull request's code teaches nothing"


def called(step: dict[str, Any]) -> list[str]:
    words = step.get("run", "").replace(" -- ", " | ").partition("nox -s ")[2]
    return words.partition("|")[0].split()


# --------------------------------------------------------------------------------------- checkers


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def actionlint(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("actionlint"), "-shellcheck", tool("shellcheck"), "-no-color"]
    return subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True)


def zizmor(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("zizmor"), "--offline", "--quiet", "--persona", "pedantic"]
    command += ["--config", str(ROOT / ".github" / "zizmor.yml")]
    return subprocess.run([*command, *map(str, files)], capture_output=True, text=True)


def test_the_checkers_find_nothing() -> None:
    files = [ROOT / path for path in WORKFLOWS]
    for done in (actionlint(*files), zizmor(*files)):
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "checker", "words"),
    [
        ("needs: plan", "needs: plam", actionlint, "plam"),
        ("steps.plan.outputs.jobs", "steps.plann.outputs.jobs", actionlint, "plann"),
        ('["ubuntu-24.04"]', '["ubunto-24.04"]', actionlint, "ubunto-24.04"),
        ('"${cells[@]}"', "${cells[@]}", actionlint, "SC2068"),
        ("permissions: {}", "permissions: write-all", zizmor, "excessive-permissions"),
        ('-- "${cells[@]}"', '-- "${{ matrix.cells }}"', zizmor, "template-injection"),
        (f"@{workflows.ACTIONS['checkout'][0].partition('@')[2]}", "@v6", zizmor, "unpinned-uses"),
    ],
)
def test_the_checkers_find_a_planted_fault(
    tmp_path: Path, old: str, new: str, checker: Any, words: str
) -> None:
    file = tmp_path / ".github" / "workflows" / "nightly.yml"
    file.parent.mkdir(parents=True)
    text = MADE[Path(".github/workflows/nightly.yml")]
    assert old in text
    file.write_text(text.replace(old, new))
    done = checker(file)
    assert done.returncode != 0
    assert words in done.stdout


def test_light_jobs_install_all_that_their_commands_import() -> None:
    code = "import sys, ci.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    where = packages_distributions()
    imported = {normal(dist) for name in done.stdout.split() for dist in where.get(name, ())}
    # Ours, part of every Python's start, or used by requests only if there.
    optional = {"setuptools", "pip", "chardet", "ascend-matrix"}
    assert imported - optional <= closure(workflows.LIGHT)


def closure(names: tuple[str, ...]) -> set[str]:
    """The distributions, and all that they require."""
    found, todo = set[str](), [normal(name) for name in names]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(normal(requirement.name))
    return found


def normal(name: str) -> str:
    return name.lower().replace("_", "-")
