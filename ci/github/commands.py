"""The commands that talk to GitHub: ``python -m ci runners|comment|ingest``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import matrix
from ci import catalogue, errors
from ci.errors import NothingSelectedError, UsageError
from ci.github import artifacts, client, comments, fleet, token
from ci.github.client import GitHub
from matrix.expecting import owned
from reports.errors import StoreError
from reports.ingest import AHEAD, take
from reports.store import Store

CONFIGURATIONS = Path("build/runners")
"""Where the configurations of registered runners are written."""

ACTIONS_AUTHOR = "github-actions[bot]"
"""Who writes with the token that GitHub gives to a job."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to the command line of ci."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--repo", metavar="OWNER/NAME", help="the repository; GITHUB_REPOSITORY by default"
    )
    _add_runners(commands, shared)

    text = "write the results into the comment of a pull request, or edit the one that is there"
    comment = commands.add_parser("comment", parents=[shared], help=text, description=text)
    source = comment.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=_number, metavar="ID", help="results of a workflow run")
    source.add_argument("--file", metavar="FILE", help="Markdown from a file; - for standard input")
    comment.add_argument("--pr", type=_number, metavar="N", help="by default that of the run")
    comment.add_argument("--store", metavar="URL", help="earlier records, to compare with")
    comment.add_argument("--author", metavar="LOGIN", help="whose comment is edited")

    text = "put the records that a workflow run kept as artifacts into the store"
    ingest = commands.add_parser("ingest", parents=[shared], help=text, description=text)
    ingest.add_argument("--run", type=_number, metavar="ID", required=True, help="the run's number")
    ingest.add_argument("--store", metavar="URL", help="results/records.sqlite by default")
    ingest.add_argument("--any-run", action="store_true", help="even that of a pull request")
    ingest.add_argument(
        "--max-bytes", type=_number, default=artifacts.MAX_BYTES, metavar="N", help="an artifact's"
    )


def _add_runners(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], shared: argparse.ArgumentParser
) -> None:
    text = "list, register and remove the repository's own runners"
    runners = commands.add_parser("runners", help=text, description=text)
    actions = runners.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[shared], help="all runners and what they do")
    listing.add_argument("--json", action="store_true", help="as JSON")
    register = actions.add_parser("register", parents=[shared], help="one runner, for one job")
    register.add_argument("kind", metavar="KIND", help="an entry of ci/runners.yaml")
    register.add_argument("--name", help="its name; a new one by default")
    register.add_argument("--group", type=_number, default=fleet.DEFAULT_GROUP, metavar="ID")
    register.add_argument("--out", type=Path, metavar="FILE", help="where its configuration goes")
    remove = actions.add_parser("remove", parents=[shared], help="runners from the repository")
    remove.add_argument("names", nargs="*", metavar="NAME|ID")
    remove.add_argument("--offline", action="store_true", help="all that are offline")
    remove.add_argument("--force", action="store_true", help="even those that run a job")


def _number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def connect(options: argparse.Namespace) -> GitHub:
    """The repository that the command line or the environment names.

    Raises:
        UsageError: None is named, or it cannot be one.
        NoTokenError: The environment has no token.
    """
    repository = options.repo or os.environ.get("GITHUB_REPOSITORY")
    if not repository:
        raise UsageError(
            "no repository is named",
            "GITHUB_REPOSITORY is set only in GitHub's own jobs",
            "give --repo owner/name",
        )
    return GitHub(repository, token.read(), client.api_address(), note=_note)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _store(url: str | None) -> Store:
    try:
        return Store(url)
    except StoreError as error:
        raise UsageError(f"--store {url}: {error.what}", error.why, error.fix) from error


# ------------------------------------------------------------------------------------------ runners


def runners(options: argparse.Namespace) -> int:
    """Carries out one action on the fleet."""
    return ACTIONS[options.action](options)


def list_runners(options: argparse.Namespace) -> int:
    """Prints the runners, and which entries of the catalogue have none that is online."""
    known = catalogue.load()
    found = fleet.machines(connect(options))
    missing = fleet.absent(found, known)
    rows = [(machine, fleet.kind(machine, known)) for machine in found]
    if options.json:
        document = {
            "runners": [
                {**asdict(m), "state": m.state, "kind": None if k is None else k.name}
                for m, k in rows
            ],
            "absent": [runner.name for runner in missing],
        }
        print(json.dumps(document, indent=1))
        return errors.PASSED
    _show(
        (m.name, str(m.id), "-" if k is None else k.name, m.state, " ".join(m.labels))
        for m, k in rows
    )
    print(f"{len(rows)} {'runner' if len(rows) == 1 else 'runners'}")
    for runner in missing:
        print(f"no runner is online for {runner.name} ({runner.title})")
    return errors.PASSED


def _show(rows: Iterable[tuple[str, ...]]) -> None:
    """Prints a table: for a person on a terminal, with tabs for everything else."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "id", "kind", "state", "labels"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def register_runner(options: argparse.Namespace) -> int:
    """Registers a runner and writes what it is started with into a file of this user alone."""
    kind = catalogue.named(catalogue.load(), options.kind)
    name = options.name or fleet.fresh_name(kind)
    fleet.request(kind, name, options.group)  # refuses what GitHub need not be asked about
    github = connect(options)
    file = options.out or CONFIGURATIONS / f"{name}.jit"
    with _secret_file(file) as descriptor:
        made = fleet.register(github, kind, name, options.group)
        try:
            os.write(descriptor, made.config.encode())
        except OSError:
            fleet.remove(github, made.machine)
            raise
    print(f"registered {made.machine.name} (id {made.machine.id}) as {kind.name}, for one job")
    print(f'start it there with: ./run.sh --jitconfig "$(cat {file})"', file=sys.stderr)
    return errors.PASSED


class _secret_file:  # noqa: N801 - reads as a function
    """A new file that only this user may read; it is removed when the block raises."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise UsageError(
                f"--out {self._path}: {error.strerror or error}",
                "the file exists, and may belong to another runner; or the folder is read-only",
                "name a file that does not exist yet",
            ) from error
        return self._descriptor

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._descriptor)
        if kind is not None:
            self._path.unlink(missing_ok=True)


def remove_runners(options: argparse.Namespace) -> int:
    """Removes runners by name, by number, or those that are offline."""
    github = connect(options)
    found = fleet.machines(github)
    for machine in fleet.to_remove(
        found, options.names, offline=options.offline, force=options.force
    ):
        fleet.remove(github, machine)
        print(f"removed {machine.name} (id {machine.id})")
    return errors.PASSED


ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "list": list_runners,
    "register": register_runner,
    "remove": remove_runners,
}
"""What can be done with runners."""


# ----------------------------------------------------------------------------------------- comment


def comment(options: argparse.Namespace) -> int:
    """Creates or edits the comment of a pull request."""
    if options.run is None and options.pr is None:
        raise UsageError(
            "--file needs --pr N",
            "a text alone does not tell which pull request it is about",
            "give --pr, or --run for the results of a workflow run",
        )
    text = None if options.file is None else _text(options.file)
    store = _store(options.store)
    github = connect(options)
    number = options.pr
    if text is None:
        run = github.get(f"actions/runs/{options.run}")
        number = number or comments.find_pull_request(github, run)
        if number is None:
            print(f"run {options.run} is not about the newest commit of an open pull request")
            return errors.PASSED
        text = _results(github, run, store)
    in_actions = os.environ.get("GITHUB_ACTIONS") == "true"
    author = options.author or (ACTIONS_AUTHOR if in_actions else None)
    action = comments.publish(github, number, comments.body(text), author)
    print(f"comment of pull request {number}: {action}")
    return errors.PASSED


def _results(github: GitHub, run: Mapping[str, Any], store: Store) -> str:
    try:
        found = artifacts.collect(github, run)
    except NothingSelectedError:
        found = artifacts.Found(())
    for problem in found.problems:
        print(f"error: {problem}", file=sys.stderr)
    first = min((record.started for record in found.records), default=None)
    earlier = store.newest(before=first) if first else []
    failures = owned(matrix.load(), [record.cell for record in found.records])
    return comments.of_run(run, found.records, len(found.problems), earlier, failures)


def _text(file: str) -> str:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--file {file}: {getattr(error, 'strerror', None) or error}",
            "it does not exist, or is no text",
            "name a file with Markdown, or - for standard input",
        ) from error
    if not text.strip():
        raise UsageError(
            f"--file {file}: it is empty",
            "what should have written it failed",
            "look at the step before this one",
        )
    return text


# ------------------------------------------------------------------------------------------ ingest


def ingest(options: argparse.Namespace) -> int:
    """Stores the records of a workflow run; one that cannot be stored does not stop the others."""
    store = _store(options.store)
    github = connect(options)
    run = github.get(f"actions/runs/{options.run}")
    if not options.any_run:
        artifacts.check_own(run, github.repository)
    found = artifacts.collect(github, run, options.max_bytes)
    outcome = take(store, found.entries)
    for problem in outcome.problems:
        print(f"error: {problem}", file=sys.stderr)
    if outcome.ahead:
        print(f"warning: {AHEAD}", file=sys.stderr)
    records = f"{len(found.records)} records, {outcome.new} of them new"
    print(f"run {options.run}: {records}, in {store.name}")
    return outcome.exit_code


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "runners": runners,
    "comment": comment,
    "ingest": ingest,
}
"""The commands by name."""
