"""Lays two revisions of plugin and simulator out as folders, side by side and unchanged by later
edits, and builds a simulator for each where theirs differ.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perf.errors import BuildError, TreeError

MEASURED = ("plugin", "simulator", "VERSION")
"""What is compared; everything else (the benchmark, the matrix) is the working tree's for both."""


@dataclass(frozen=True)
class Tree:
    """One side of a comparison.

    Attributes:
        label: how it is called in tables: a short commit, `working tree` or a folder.
        path: folder with `plugin/` and, if it has one, `simulator/`.
        commit: its commit, where it is one.
        dirty: whether it differs from that commit.
        simulator: folder with its own `cannsim` package; None for the installed one.
    """

    label: str
    path: Path
    commit: str | None = None
    dirty: bool = False
    simulator: Path | None = None

    @property
    def plugin(self) -> Path:
        """The folder that holds the package vllm_ascend."""
        return self.path / "plugin"

    @property
    def import_path(self) -> list[str]:
        """What its process finds before anything that is installed."""
        return [str(self.plugin), *([str(self.simulator)] if self.simulator else [])]


def of_revision(root: Path, revision: str, folder: Path) -> Tree:
    """Return a commit of the repository at `root`, laid out under `folder`.

    Raises:
        TreeError: no repository, no such revision, or one without a plugin.
    """
    _require_repository(root)
    done = _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}"
    )
    if done.returncode:
        raise TreeError(
            f"There is no revision {revision!r} in {root}.",
            "It is mistyped, or this clone is shallow and does not have it.",
            "`git log --oneline` and `git branch -a` list what there is; `git fetch` gets more.",
        )
    commit = done.stdout.decode().strip()
    tree = Tree(commit[:10], folder / commit, commit)
    if not tree.path.is_dir():
        _export(root, commit, tree.path)
    return tree


def working_tree(root: Path, allow_dirty: bool) -> Tree:
    """Return the checkout at `root` as it is.

    Raises:
        TreeError: no repository, or plugin or simulator have changes that no commit has.
    """
    _require_repository(root)
    commit = _git(root, "rev-parse", "HEAD").stdout.decode().strip()
    changed = _git(root, "status", "--porcelain", "--", *MEASURED).stdout.decode().splitlines()
    if changed and not allow_dirty:
        shown = "\n".join(f"  {line}" for line in changed[:8])
        raise TreeError(
            f"The working tree differs from its commit {commit[:10]}:\n{shown}",
            "What was measured could not be named by a revision afterwards.",
            "Commit the changes, or say --allow-dirty; --head REV compares a commit instead.",
        )
    label = f"{commit[:10]} with changes" if changed else commit[:10]
    return Tree(label, root, commit, bool(changed))


def of_folder(path: Path) -> Tree:
    """Return a folder that someone else laid out.

    Raises:
        TreeError: it has no plugin.
    """
    _require_plugin(path, str(path))
    return Tree(path.name, path.resolve(), dirty=True)


def with_simulators(
    base: Tree, head: Tree, folder: Path, report: Callable[[str], None]
) -> tuple[Tree, Tree]:
    """Return both with a simulator of their own where their sources differ.

    Where they are equal, both use the installed one: what it costs is then the same for both.

    Raises:
        BuildError: one could not be built.
    """
    digests = simulator_digest(base.path), simulator_digest(head.path)
    if digests[0] == digests[1] or None in digests:
        return base, head
    made = []
    for tree, digest in zip((base, head), digests, strict=True):
        target = folder / f"simulator-{digest}"
        if not target.is_dir():
            report(f"building the simulator of {tree.label}; log in {target}.log")
            _build(tree, target)
        made.append(Tree(tree.label, tree.path, tree.commit, tree.dirty, target))
    return made[0], made[1]


def simulator_digest(tree: Path) -> str | None:
    """Return a hash over the simulator's sources (not its tests or builds); None without any."""
    root = tree / "simulator"
    if not root.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(_sources(root)):
        digest.update(f"{file.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _sources(root: Path) -> Iterator[Path]:
    for part in ("CMakeLists.txt", "pyproject.toml", "cmake", "src", "cannsim"):
        place = root / part
        if place.is_file():
            yield place
        for file in place.rglob("*"):
            generated = {"__pycache__", "lib64"} & set(file.relative_to(root).parts)
            if file.is_file() and not generated:
                yield file


def _build(tree: Tree, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".simulator-", dir=target.parent))
    log = Path(f"{target}.log")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "-v", "--target", str(made)]
    command += [f"--config-settings=build-dir={made}.build", str(tree.path / "simulator")]
    try:
        with log.open("w") as output:
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
        if status:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise BuildError(
                f"The simulator of {tree.label} could not be built:\n{last}",
                "Its sources do not compile here, or the disk is full.",
                f"The whole log is {log}.",
            )
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(f"{made}.build", ignore_errors=True)


def _export(root: Path, commit: str, target: Path) -> None:
    """Lay a commit out whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    done = _git(root, "archive", "--format=tar", commit, "--", *MEASURED)
    if done.returncode:
        raise TreeError(
            f"The revision {commit[:10]} cannot be compared: {done.stderr.decode().strip()}",
            "It is older than the plugin or the simulator.",
            f"Choose a later one: `git log --oneline -- {' '.join(MEASURED)}` lists them.",
        )
    made = Path(tempfile.mkdtemp(prefix=".tree-", dir=target.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(made, filter="data")
        _require_plugin(made, f"the revision {commit[:10]}")
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # unless another process was faster
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _require_plugin(path: Path, name: str) -> None:
    if not (path / "plugin" / "vllm_ascend" / "__init__.py").is_file():
        raise TreeError(
            f"There is no plugin/vllm_ascend in {name}.",
            "A tree to compare has the layout of this repository.",
            "Name the folder above plugin/.",
        )


def _require_repository(root: Path) -> None:
    done = _git(root, "rev-parse", "--show-toplevel")
    if done.returncode:
        raise TreeError(
            f"{root} is not a git repository, so that no revision can be looked up.",
            done.stderr.decode().strip(),
            "Run this in a clone, not in an unpacked archive.",
        )
    top = Path(done.stdout.decode().strip())
    if top.resolve() != root.resolve():
        raise TreeError(
            f"{root} lies inside another git repository, {top}.",
            "It was unpacked there; revisions would be looked up in the wrong history.",
            "Run this in a clone of its own.",
        )


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    # A hook's variables would name another repository than the one at `root`.
    environment = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE")}
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, env=environment
    )
