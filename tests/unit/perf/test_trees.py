"""Trees: revisions laid out whole, dirty checkouts refused, simulators told apart by sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from perf import trees
from perf.errors import BuildError, TreeError


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    command = ["git", *identity, "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for file in ("plugin/vllm_ascend/__init__.py", "simulator/src/a.cpp", "VERSION", "other"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("1\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "First")
    return root


def test_a_revision_is_laid_out_as_it_was(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    (repository / "plugin/vllm_ascend/__init__.py").write_text("2\n")
    git(repository, "commit", "-qam", "Second")
    tree = trees.of_revision(repository, "HEAD~1", tmp_path / "out")
    assert (tree.commit, tree.label, tree.dirty) == (first, first[:10], False)
    assert (tree.plugin / "vllm_ascend/__init__.py").read_text() == "1\n"
    assert not (tree.path / "other").exists()
    again = trees.of_revision(repository, first[:8], tmp_path / "out")
    assert again == tree
    assert [path.name for path in (tmp_path / "out").iterdir()] == [first]


@pytest.mark.parametrize("name", ["nosuch", "--all", "HEAD~9", ""])
def test_unknown_revisions_are_named(repository: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(TreeError, match=r"There is no revision") as caught:
        trees.of_revision(repository, name, tmp_path / "out")
    assert caught.value.exit_code == 2
    assert repr(name) in str(caught.value)


def test_a_revision_without_a_plugin_leaves_nothing_behind(
    repository: Path, tmp_path: Path
) -> None:
    git(repository, "rm", "-rq", "plugin")
    git(repository, "commit", "-qm", "Without")
    with pytest.raises(TreeError):
        trees.of_revision(repository, "HEAD", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_repository(tmp_path: Path) -> None:
    for call in (
        lambda: trees.of_revision(tmp_path, "HEAD", tmp_path / "out"),
        lambda: trees.working_tree(tmp_path, allow_dirty=True),
    ):
        with pytest.raises(TreeError, match="not a git repository") as caught:
            call()
        assert caught.value.exit_code == 2


def test_a_folder_inside_another_repository_is_no_repository(
    repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(TreeError, match="inside another git repository"):
        trees.of_revision(repository / "plugin", "HEAD", tmp_path / "out")


def test_a_dirty_tree_is_refused_unless_allowed(repository: Path) -> None:
    assert not trees.working_tree(repository, allow_dirty=False).dirty
    (repository / "other").write_text("2\n")  # takes no part in what is measured
    assert not trees.working_tree(repository, allow_dirty=False).dirty
    (repository / "plugin/vllm_ascend/new.py").write_text("2\n")
    with pytest.raises(TreeError, match=r"new\.py") as caught:
        trees.working_tree(repository, allow_dirty=False)
    assert "--allow-dirty" in str(caught.value)
    tree = trees.working_tree(repository, allow_dirty=True)
    assert tree.dirty
    assert "with changes" in tree.label


def test_a_folder_needs_a_plugin(repository: Path, tmp_path: Path) -> None:
    assert trees.of_folder(repository).dirty
    with pytest.raises(TreeError, match="no plugin/vllm_ascend"):
        trees.of_folder(tmp_path / "nothing")


def test_equal_simulators_are_shared_and_different_ones_built(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = trees.of_revision(repository, "HEAD", tmp_path / "out")
    head = trees.of_folder(repository)
    (repository / "simulator/build").mkdir()
    (repository / "simulator/build/made.o").write_text("no source")
    assert trees.with_simulators(base, head, tmp_path / "out", print) == (base, head)

    (repository / "simulator/src/a.cpp").write_text("2\n")
    built: list[Path] = []

    def build(tree: trees.Tree, target: Path) -> None:
        built.append(tree.path)
        target.mkdir(parents=True)

    monkeypatch.setattr(trees, "_build", build)
    pair = trees.with_simulators(base, head, tmp_path / "out", print)
    assert built == [base.path, head.path]
    assert pair[0].simulator != pair[1].simulator
    assert pair[1].import_path == [str(head.plugin), str(pair[1].simulator)]
    trees.with_simulators(base, head, tmp_path / "out", print)
    assert len(built) == 2  # the second time they are there


def test_a_build_that_fails_is_told_and_leaves_no_folder(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees.sys, "executable", "/bin/false")
    with pytest.raises(BuildError, match="could not be built") as caught:
        trees._build(trees.of_folder(repository), tmp_path / "out" / "simulator-1")
    assert caught.value.exit_code == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["simulator-1.log"]
