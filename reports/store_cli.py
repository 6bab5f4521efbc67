"""The commands `python -m reports store`: what a store is, and what keeps it in order."""

from __future__ import annotations

import argparse
from typing import Any

from reports import schema
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
