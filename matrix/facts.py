"""Checks that facts agree with each other: versions, branches, hardware, released checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from matrix.claims import Matrix
from matrix.documents import Document, display
from matrix.errors import DuplicateName, InvalidData, UnknownReference, did_you_mean
from matrix.schema import Branch, Family, Released, UpstreamFile

Places = Mapping[str, Mapping[str, str]]
"""Sort of entry to name to `file:line: key`."""


def check_facts(matrix: Matrix, places: Places) -> None:
    """Check everything that two entries say of each other, rules and cells apart.

    Raises:
        InvalidData: two facts contradict each other.
        UnknownReference: an entry names something that does not exist.
    """
    _check_hardware(matrix, places["hardware"])
    _check_releases(matrix, places["releases"])
    _check_branches(matrix, places["branches"])
    for name in matrix.serving:
        require(name, matrix.features, f"{places['serving'][name]}.feature", "feature")
    _check_families(matrix, places["families"])


def require(pattern: str, names: Iterable[str], place: str, sort: str) -> None:
    """Raise UnknownReference unless `pattern` matches one of `names`."""
    names = list(names)
    if not any(fnmatchcase(name, pattern) for name in names):
        raise UnknownReference(
            f"{place}: no {sort} is called, or matched by, {pattern!r}.",
            did_you_mean(pattern, names),
        )


def check_upstream(matrix: Matrix, document: Document[UpstreamFile]) -> None:
    """Raise UnknownReference where upstream's tables name something that is not there."""
    names = [c.name for family in matrix.families.values() for c in family.checkpoints]
    given = matrix.upstream
    for number, table in enumerate(given.tables):
        place = document.where(("upstream", "tables", number))
        for hardware in table.hardware:
            require(hardware, matrix.hardware | matrix.sharing, f"{place}.hardware", "hardware")
        for row in table.rows:
            for pattern in row.models:
                require(pattern, names, f"{place}: {row.label}", "released checkpoint")
    asked = [column.feature for column in (*given.columns, *given.pairs)]
    asked += [feature for row in given.features for feature in row.features]
    for feature in asked:
        require(feature, matrix.features, document.where(("upstream",)), "feature")


def _check_hardware(matrix: Matrix, places: Mapping[str, str]) -> None:
    for name, hardware in matrix.sharing.items():
        place, other = f"{places[name]}.same_chip_as", hardware.same_chip_as or ""
        require(other, matrix.hardware, place, "hardware with runs of its own")
        if hardware.soc != matrix.hardware[other].soc:
            raise InvalidData(
                f"{place}: {name} has the chip {hardware.soc}, and {other} has "
                f"{matrix.hardware[other].soc}.",
                "Runs on one chip do not speak for another.",
                "Remove same_chip_as, so that the range gets runs of its own.",
            )


def _check_releases(matrix: Matrix, places: Mapping[str, str]) -> None:
    current = [name for name, r in matrix.releases.items() if r.status == "current"]
    if len(current) != 1:
        raise InvalidData(
            f"{display(matrix.root / 'releases.yaml')}: {len(current)} releases are current "
            f"({', '.join(current) or 'none'}); exactly one has to be.",
        )
    seen: dict[tuple[str, str], str] = {}
    for name, release in matrix.releases.items():
        if release.publisher == "project":
            for version in release.cann:
                require(version, matrix.cann, f"{places[name]}.cann", "CANN version")
        if release.branch is not None:
            require(release.branch, matrix.branches, f"{places[name]}.branch", "branch")
        key = release.publisher, release.plugin
        if seen.setdefault(key, name) != name:
            raise DuplicateName(
                f"{places[name]}: {release.publisher} released {release.plugin} already, as "
                f"{seen[key]!r}.",
                "A version is released once; two rows of it would contradict each other one day.",
                "Remove one of the two.",
            )


def _check_branches(matrix: Matrix, places: Mapping[str, str]) -> None:
    """Hold the project's own branches to the policy; upstream's are what upstream says of them."""
    patterns = [kind.pattern for kind in matrix.policy.branches]
    for name, branch in matrix.branches.items():
        if branch.publisher != "project":
            continue
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            raise InvalidData(
                f"{places[name]}.name: {name!r} is no name for a branch.",
                f"By the policy a branch is called {', '.join(patterns)}.",
            )
        if outlived(branch, matrix):
            raise InvalidData(
                f"{places[name]}.state: the branch is said to be maintained, and "
                f"{matrix.policy.maintained_minors} newer minors were released.",
                "The policy maintains no more than so many.",
                "Set state: unmaintained, or change policy.maintained_minors.",
            )


def outlived(branch: Branch, matrix: Matrix) -> bool:
    """Whether a branch that is said to be maintained is older than the policy maintains."""
    named = re.search(r"v(\d+)\.(\d+)", branch.name)
    if named is None or branch.state != "maintained":
        return False
    own = int(named[1]), int(named[2])
    minors = {r.minor for r in matrix.releases.values() if r.publisher == branch.publisher}
    return sum(minor > own for minor in minors) >= matrix.policy.maintained_minors


def _check_families(matrix: Matrix, places: Mapping[str, str]) -> None:
    owners: dict[str, str] = {_folded(name): name for name in matrix.models}
    repositories: dict[str, str] = {}
    for family in matrix.families.values():
        place = places[family.name]
        if family.stand_in is not None:
            require(family.stand_in, matrix.models, f"{place}.stand_in", "model")
        for kind in ("accuracy", "performance"):
            valid = [name for name, b in matrix.benchmarks.items() if b.kind == kind]
            for name in getattr(family, kind):
                require(name, valid, f"{place}.{kind}", f"benchmark of {kind}")
        for number, checkpoint in enumerate(family.checkpoints):
            where = f"{place}.checkpoints[{number}]"
            _check_checkpoint(matrix, checkpoint, where)
            _claim(owners, _folded(checkpoint.name), checkpoint.name, f"{where}.name")
            for repo in (checkpoint.repo, *(form.repo for form in checkpoint.forms)):
                _claim(repositories, repo.lower(), f"{checkpoint.name}: {repo}", f"{where}.repo")
        _check_sizes(family, place)


def _check_checkpoint(matrix: Matrix, checkpoint: Released, where: str) -> None:
    for name in checkpoint.cards:
        require(name, matrix.hardware | matrix.sharing, f"{where}.cards", "hardware")
    if checkpoint.stand_in is not None:
        require(checkpoint.stand_in, matrix.models, f"{where}.stand_in", "model")


def _claim(owners: dict[str, str], key: str, name: str, place: str) -> None:
    """Take a name that nobody else may have, however it is spelt."""
    if key in owners:
        raise DuplicateName(
            f"{place}: {name!r} is {owners[key]!r} already, but for case, dots and dashes.",
            "Two rows for one checkpoint would contradict each other one day.",
            "Remove one of the two.",
        )
    owners[key] = name


def _folded(name: str) -> str:
    """Return a name without what tells two spellings of one name apart."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _check_sizes(family: Family, place: str) -> None:
    """Refuse a size that the checkpoint's own name contradicts, as in 32B with 3.2 billions."""
    for number, checkpoint in enumerate(family.checkpoints):
        named = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", checkpoint.repo.lower())
        sizes = [size for size in (checkpoint.billions, checkpoint.active) if size is not None]
        if named is None or not sizes:
            continue
        said = float(named[1])
        if not any(0.6 <= size / said <= 2 for size in sizes):
            raise InvalidData(
                f"{place}.checkpoints[{number}].billions: {checkpoint.name} has "
                f"{checkpoint.billions} billions of weights; its repository's name says {said}.",
                "One of the two is mistyped; devices and memory follow from it.",
            )
