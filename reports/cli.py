"""The command line `python -m reports`: tables, records, the store, comments and the site."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import matrix
from matrix.expecting import owned
from reports import comment, ingest, markdown, quantised, spool, store_cli
from reports.errors import RecordError, ReportsError, StoreError
from reports.grouping import AXES, grouped
from reports.record import Record, parse
from reports.statuses import KINDS, Status
from reports.store import Store
from reports.support import Support, as_json, derive

SITE = "ASCEND_MATRIX_SITE"
"""Environment variable with the address of the published site."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors go to standard error, never a traceback."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ReportsError, matrix.MatrixError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reports", description="What happened: records, statuses, tables, site."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--store", metavar="URL", help="SQLAlchemy URL (ASCEND_MATRIX_STORE)")
    derived = argparse.ArgumentParser(add_help=False, parents=[shared])
    derived.add_argument("--kind", choices=("e2e", "accuracy", "perf"), default="e2e")
    derived.add_argument("--max-age", type=float, metavar="DAYS", help="how long evidence counts")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    status = commands.add_parser("status", parents=[derived], help="the status of each cell")
    status.add_argument("--cell", action="append", default=[], metavar="PATTERN")
    status.add_argument("--all", action="store_true", help="unsupported cells too")
    status.add_argument("--counts", action="store_true", help="how many cells are in each state")
    status.add_argument(
        "--by",
        action="append",
        default=[],
        choices=AXES,
        metavar="AXIS",
        help=f"counts of supported cells for each {', '.join(AXES)}; may be repeated",
    )
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(run=_status)

    table = commands.add_parser("table", parents=[derived], help="the tables as Markdown")
    table.set_defaults(run=_table)

    loss = commands.add_parser(
        "quantised", parents=[shared], help="what quantised models lose, as Markdown"
    )
    loss.set_defaults(run=_quantised, kind="e2e", max_age=None)

    taken = commands.add_parser("ingest", parents=[shared], help="store records out of files")
    taken.add_argument(
        "sources",
        nargs="*",
        type=Path,
        metavar="FILE|DIR",
        help="files of records (.json, .jsonl, .jsonl.gz) or folders of them; the spool by default",
    )
    taken.set_defaults(run=_ingest)

    export = commands.add_parser(
        "export",
        parents=[derived],
        help="statuses as JSON, records as Parquet, or vllm-ascend's own tables as Markdown",
    )
    export.add_argument(
        "format",
        nargs="?",
        choices=("json", "parquet", "upstream"),
        default="json",
        metavar="json|parquet|upstream",
    )
    export.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="for parquet")
    export.add_argument(
        "--out", type=Path, metavar="FILE", help="for json and upstream; else printed"
    )
    export.set_defaults(run=_export)

    said = commands.add_parser(
        "comment", parents=[shared], help="what ran, as the comment of a pull request"
    )
    chosen = said.add_mutually_exclusive_group()
    chosen.add_argument("--since", type=_date, metavar="DATE", help="what started then or later")
    chosen.add_argument(
        "--run", dest="file", type=Path, metavar="FILE", help="what a run's --json wrote"
    )
    said.add_argument("--out", type=Path, metavar="FILE")
    said.add_argument(
        "--site",
        metavar="URL",
        default=os.environ.get(SITE),
        help=f"the published site, to link cells to ({SITE})",
    )
    said.set_defaults(run=_comment)

    store_cli.add_commands(commands, shared)

    site = commands.add_parser("site", parents=[shared], help="the documentation with its tables")
    site.add_argument("--out", type=Path, default=Path("build/site"), metavar="DIR")
    site.set_defaults(run=_site)
    return parser


def _date(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date; write 2026-11-21 or 2026-11-21T05:00"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _derive(options: argparse.Namespace) -> Support:
    store = Store(options.store)
    return derive(matrix.load(), store, datetime.now(UTC), options.max_age, options.kind)


def _status(options: argparse.Namespace) -> int:
    support = _derive(options)
    if options.counts and not options.by:
        _print_counts(support, as_json=options.json)
        return 0
    if options.cell:
        # Reports a mistyped pattern, and lets an unsupported cell be asked for by its name.
        matrix.candidates(support.matrix, list(support.cells.values()), options.cell)
    chosen = [
        status
        for status in support.statuses.values()
        if (
            any(fnmatchcase(status.cell, p) for p in options.cell)
            if options.cell
            else options.all or status.state != "unsupported"
        )
    ]
    if options.by:
        _print_groups(options.by, grouped(support.cells, chosen, options.by), options.json)
    elif options.json:
        ids = {status.cell for status in chosen}
        document = as_json(support)
        document["cells"] = [cell for cell in document["cells"] if cell["id"] in ids]
        print(json.dumps(document, indent=2))
    else:
        _print_statuses(chosen)
    return 0


def _print_counts(support: Support, *, as_json: bool) -> None:
    """Print how many cells exist, are supported and are in each state, for every kind of runs."""
    counts = {kind: support.numbers(kind) for kind in KINDS}
    if as_json:
        print(json.dumps(counts, indent=2))
        return
    names = next(iter(counts.values()))
    print("\t".join(["kind", *(name.replace("-", " ") for name in names)]))
    for kind, found in counts.items():
        print("\t".join([kind, *map(str, found.values())]))


def _print_groups(
    axes: Sequence[str], groups: Mapping[tuple[str, ...], Mapping[str, int]], as_json: bool
) -> None:
    """Print a row for each group: how many cells are supported, and are in each state."""
    if as_json:
        rows = [{**dict(zip(axes, group, strict=True)), **n} for group, n in groups.items()]
        print(json.dumps(rows, indent=2))
        return
    head = next(iter(groups.values()), {})
    names = [name.replace("-", " ") for name in head]
    shown = [(*group, *map(str, numbers.values())) for group, numbers in groups.items()]
    _print_table((*axes, *names), shown, titled=True)


def _print_statuses(chosen: Sequence[Status]) -> None:
    rows = [
        (
            status.cell,
            status.label,
            status.evidence or "",
            f"{status.record.started:%Y-%m-%d %H:%M}Z" if status.record else "",
            status.reason.splitlines()[0] if status.reason else "",
        )
        for status in chosen
    ]
    _print_table(("cell", "status", "evidence", "newest run", "reason"), rows)


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, titled: bool = False
) -> None:
    """Print rows: for programs with a tab between values, and the columns' names where `titled`."""
    if not sys.stdout.isatty():
        for row in ([columns] if titled else []) + list(rows):
            print("\t".join(row).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _table(options: argparse.Namespace) -> int:
    print(markdown.render(_derive(options)), end="")
    return 0


def _quantised(options: argparse.Namespace) -> int:
    print(quantised.render(_derive(options)), end="")
    return 0


def _ingest(options: argparse.Namespace) -> int:
    store = Store(options.store)
    sources = options.sources or [folder for folder in store.spools if folder.is_dir()]
    outcome = ingest.ingest(store, sources)
    for problem in outcome.problems:
        print(f"error: {problem}", file=sys.stderr)
    if outcome.ahead:
        print(f"warning: {ingest.AHEAD}", file=sys.stderr)
    print(f"{outcome}, in {store.name}")
    return outcome.exit_code


def _export(options: argparse.Namespace) -> int:
    if options.format == "upstream":
        from reports import upstream  # no other command renders these

        _write(upstream.render(_derive(options)), options.out)
        return 0
    if options.format == "parquet":
        return _export_parquet(options)
    if options.folder is not None:
        raise StoreError(f"A folder ({options.folder}) is for parquet.", "", "Name it by --out.")
    text = json.dumps(as_json(_derive(options)), indent=2, ensure_ascii=False) + "\n"
    _write(text, options.out)
    return 0


def _export_parquet(options: argparse.Namespace) -> int:
    from reports import parquet  # a fifth of a second that no other command has to pay

    for path in parquet.export(Store(options.store), options.folder or Path("results/parquet")):
        print(path)
    return 0


def _write(text: str, out: Path | None) -> None:
    """Write to a file, whole or not at all, or to standard output."""
    if out is None:
        print(text, end="")
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        spool.write(out, text)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}.") from None


def _comment(options: argparse.Namespace) -> int:
    store = Store(options.store)
    if options.file:
        shown = of_run(options.file)
    else:
        shown = store.records(since=options.since) if options.since else store.newest()
    first = min((record.started for record in shown), default=None)
    # Without a choice the newest of all are shown, and nothing is before them.
    chosen = options.file or options.since
    before = store.newest(before=first) if first and chosen else []
    failures = owned(matrix.load(), [record.cell for record in shown])
    text = comment.render(shown, comment.newest(before), site=options.site, expected=failures)
    _write(text, options.out)
    return 0


def of_run(path: Path) -> list[Record]:
    """Return the records in the file that a run wrote for `--json`.

    Raises:
        RecordError: the file cannot be read, or holds something else.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        documents = [cell["record"] for cell in cells]
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "The run did not get as far as writing it.",
            "Name the file that was given to the run's --json.",
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{path} holds no outcome of a run ({type(error).__name__}: {error}).",
            "It is another file, or the run only listed its cells.",
            "Name the file that was given to the run's --json.",
        ) from None
    return [parse(d, f"{path}: cells[{n}].record") for n, d in enumerate(documents)]


def _site(options: argparse.Namespace) -> int:
    from reports.site import build  # Jinja is needed by no other command

    print(build(options.store, options.out) / "index.html")
    return 0
