"""The commands `python -m reports store`: what a store is, and what keeps it in order."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from reports import retention, schema
from reports.store import Store


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add `store` with its own commands to the command line.

    Args:
        commands: the subparsers of `python -m reports`.
        shared: the parser that has --store.
    """
    store = commands.add_parser("store", help="the store itself: its revision, what it holds")
    ours = store.add_subparsers(required=True, metavar="COMMAND")

    current = ours.add_parser("current", parents=[shared], help="the revision of its tables")
    current.set_defaults(run=_current)

    upgrade = ours.add_parser("upgrade", parents=[shared], help="bring its tables up to date")
    upgrade.add_argument("revision", nargs="?", default=schema.REVISION, metavar="REVISION")
    upgrade.set_defaults(run=_upgrade)

    prune = ours.add_parser(
        "prune", parents=[shared], help="move proofs, samples and logs of old records to an archive"
    )
    prune.add_argument(
        "--older-than", type=_age, required=True, metavar="AGE", help="such as 90d or 12w"
    )
    prune.add_argument("--archive", type=Path, metavar="DIR", help="where the archive is made")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be moved")
    prune.set_defaults(run=_prune)

    restore = ours.add_parser("restore", parents=[shared], help="put back what a pruning moved")
    restore.add_argument("archives", nargs="+", type=Path, metavar="FILE")
    restore.set_defaults(run=_restore)


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([dw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write 90d for days or 12w for weeks")
    return timedelta(**{{"d": "days", "w": "weeks"}[found[2]]: int(found[1])})


def _prune(options: argparse.Namespace) -> int:
    store = Store(options.store)
    before = datetime.now(UTC) - options.older_than
    found = retention.prune(store, before, options.archive, dry_run=options.dry_run)
    what = f"proofs, samples and logs of {found.records} records ({found.characters:,} characters)"
    if found.archive is not None:
        print(f"{store.name}: {what} are in {found.archive} now")
    else:
        print(f"{store.name}: {what} would be moved" if found.records else "nothing to move")
    return 0


def _restore(options: argparse.Namespace) -> int:
    store, worst = Store(options.store), 0
    for archive in options.archives:
        count, problems = retention.restore(store, archive)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
            worst = max(worst, problem.exit_code)
        print(f"{store.name}: {count} records are whole again, from {archive}")
    return worst


def _current(options: argparse.Namespace) -> int:
    store = Store(options.store)
    found = store.revision()
    if found is None:
        print(f"{store.name}: there is nothing yet")
    elif found == schema.REVISION:
        print(f"{store.name}: revision {found} is current")
    else:
        print(f"{store.name}: revision {found}; this version needs {schema.REVISION}")
    return 0


def _upgrade(options: argparse.Namespace) -> int:
    store = Store(options.store)
    before, after = store.upgrade(options.revision)
    if before == after:
        print(f"{store.name}: revision {after} is current")
    else:
        print(f"{store.name}: revision {before or '(none)'} → {after}")
    return 0
