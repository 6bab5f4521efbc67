"""Registers, lists and removes the self-hosted runners of a repository, just in time."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ci.catalogue import Catalogue, Runner
from ci.errors import NothingSelectedError, UsageError
from ci.github.client import GitHub
from ci.github.errors import UncertainError
from matrix.errors import did_you_mean

PATH = "actions/runners"

DEFAULT_GROUP = 1
"""The runner group that every repository has."""


@dataclass(frozen=True)
class Machine:
    """A runner as GitHub knows it.

    Args:
        id: GitHub's number for it.
        name: Its name.
        status: ``online`` or ``offline``.
        busy: Whether it runs a job.
        labels: What `runs-on` may ask of it.
    """

    id: int
    name: str
    status: str
    busy: bool
    labels: tuple[str, ...]

    @property
    def state(self) -> str:
        """One word: busy, idle or offline."""
        return "busy" if self.busy else "idle" if self.status == "online" else self.status


@dataclass(frozen=True)
class Registration:
    """A runner that may start once.

    Args:
        machine: The runner.
        config: What it is started with. Whoever has it gets the repository's jobs, so it is shown
            nowhere.
    """

    machine: Machine
    config: str = field(repr=False)


# ---------------------------------------------------------------------------------- decisions, pure


def machine(document: Mapping[str, Any]) -> Machine:
    """The runner that a document of the API describes."""
    labels = tuple(str(label["name"]) for label in document["labels"])
    return Machine(
        int(document["id"]),
        str(document["name"]),
        str(document["status"]),
        bool(document["busy"]),
        labels,
    )


def kind(found: Machine, catalogue: Catalogue) -> Runner | None:
    """The entry of the catalogue that a runner is of: the one with most of its labels."""
    has = {label.lower() for label in found.labels}
    fits = [
        runner
        for runner in catalogue.runners
        if not runner.hosted and has >= {label.lower() for label in runner.labels}
    ]
    return max(fits, key=lambda runner: len(runner.labels), default=None)


def absent(machines: Iterable[Machine], catalogue: Catalogue) -> list[Runner]:
    """Entries of the catalogue that no runner that is online stands for."""
    online = [kind(found, catalogue) for found in machines if found.status == "online"]
    return [runner for runner in catalogue.runners if not runner.hosted and runner not in online]


def request(runner: Runner, name: str, group: int) -> dict[str, Any]:
    """What GitHub is asked when a runner is registered.

    Raises:
        UsageError: GitHub itself provides runners of that sort.
    """
    if runner.hosted:
        raise UsageError(
            f"{runner.name} cannot be registered",
            "GitHub itself provides those machines",
            "choose an entry of ci/runners.yaml with `hosted: false`",
        )
    return {
        "name": name,
        "runner_group_id": group,
        "labels": list(runner.labels),
        "work_folder": "_work",
    }


def fresh_name(runner: Runner) -> str:
    """A name that no other runner has: each registration is for one job only."""
    return f"{runner.name}-{uuid.uuid4().hex[:12]}"


def to_remove(
    machines: Sequence[Machine], which: Sequence[str], *, offline: bool, force: bool
) -> list[Machine]:
    """The runners that a command line means.

    Args:
        machines: All runners of the repository.
        which: Names or numbers.
        offline: Also all that are offline.
        force: Also those that run a job, which then fails.

    Raises:
        UsageError: A name is unknown, or a runner is busy.
        NothingSelectedError: Nothing was named, and none is offline.
    """
    by_name = {key: found for found in machines for key in (found.name, str(found.id))}
    unknown = [name for name in which if name not in by_name]
    if unknown:
        raise UsageError(
            f"no runner is called {unknown[0]!r}",
            did_you_mean(unknown[0], [found.name for found in machines]),
            "`python -m ci runners list` shows them; one that ran its job is gone by itself",
        )
    named = [by_name[name] for name in which]
    if offline:
        named += [found for found in machines if found.status == "offline" and not found.busy]
    chosen = list({found.id: found for found in named}.values())
    busy = [found.name for found in chosen if found.busy]
    if busy and not force:
        raise UsageError(
            f"{', '.join(busy)}: runs a job",
            "removing it would fail that job",
            "wait for its end, or give --force",
        )
    if not chosen:
        raise NothingSelectedError(
            "there is no runner to remove",
            "none is offline" if offline else "none was named",
            "name runners, or give --offline for all that are offline",
        )
    return chosen


# --------------------------------------------------------------------------------- asking GitHub


def machines(github: GitHub) -> list[Machine]:
    """All runners of the repository, by name."""
    found = [machine(document) for document in github.pages(PATH, "runners")]
    return sorted(found, key=lambda one: one.name)


def register(
    github: GitHub, runner: Runner, name: str | None = None, group: int = DEFAULT_GROUP
) -> Registration:
    """Registers a runner that may start once and is removed after its job.

    When GitHub fails in the middle, a runner may exist whose configuration was lost: it is removed,
    and the registration tried once more.

    Raises:
        UsageError: It is a runner of GitHub's own.
        GitHubError: GitHub refuses (as when the name is taken) or cannot be asked.
    """
    name = name or fresh_name(runner)
    document = request(runner, name, group)
    before = {found.id for found in machines(github) if found.name == name}
    try:
        answer = github.post(f"{PATH}/generate-jitconfig", document)
    except UncertainError:
        for found in machines(github):
            if found.name == name and found.id not in before:
                github.delete(f"{PATH}/{found.id}")
        answer = github.post(f"{PATH}/generate-jitconfig", document)
    return Registration(machine(answer["runner"]), str(answer["encoded_jit_config"]))


def remove(github: GitHub, found: Machine) -> None:
    """Removes a runner; that it is gone already is no error."""
    github.delete(f"{PATH}/{found.id}")
