"""The command line `python -m matrix`: list, show, resolve, count, check, schema."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from matrix import schemas_export
from matrix.cells import Cell, expand
from matrix.claims import Matrix
from matrix.combining import combine, everything
from matrix.covering import covering, within
from matrix.documents import display
from matrix.errors import InvalidData, MatrixError, UnknownPattern, did_you_mean
from matrix.loader import load
from matrix.released import Claims
from matrix.resolving import Answer, resolve
from matrix.rotation import night
from matrix.selecting import candidates, contains, find, required, select
from matrix.tally import tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors go to standard error, never a traceback."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except MatrixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m matrix",
        description="What is claimed: cells, ids <model>/<feature>/cann-<version>/<hardware>.",
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="folder with the YAML files")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the cells that patterns and a selection choose")
    listing.add_argument("patterns", nargs="*", metavar="PATTERN", help="fnmatch on cell ids")
    listing.add_argument("--select", metavar="NAME", help="a named selection, such as smoke")
    listing.add_argument("--all", action="store_true", help="unsupported cells too, with reasons")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.add_argument(
        "--released",
        action="store_true",
        help="claims about released checkpoints, and what of each is shown on stand-ins",
    )
    listing.add_argument(
        "--date", type=date.fromisoformat, metavar="DAY", help="the night of a rotation; today's"
    )
    listing.add_argument("--budget", type=_count, metavar="N", help="at most so many cells")
    listing.add_argument(
        "--covering", action="store_true", help="only a covering array, what covers most first"
    )
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="everything that is known about one cell")
    show.add_argument("cell", metavar="CELL")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(run=_show)

    resolve = commands.add_parser("resolve", help="which versions to install, and how")
    resolve.add_argument("--model", required=True, help="a name, or a repository of the hub")
    resolve.add_argument("--hardware", required=True, help="such as a2, or a product's name")
    resolve.add_argument("--feature", help="by default what the model's task begins with")
    resolve.add_argument("--cann", metavar="VERSION", help="by default the release's own")
    resolve.add_argument("--json", action="store_true", help="as JSON")
    resolve.set_defaults(run=_resolve)

    count = commands.add_parser("count", help="how many cells and claims there are, by part")
    count.add_argument("--json", action="store_true", help="as JSON")
    count.set_defaults(run=_tally)

    check = commands.add_parser("check", help="validate the YAML, the schemas and the bodies")
    check.set_defaults(run=_check)

    schema = commands.add_parser("schema", help="export the JSON schemas for editors")
    schema.add_argument("--out", type=Path, default=schemas_export.FOLDER, metavar="DIR")
    schema.set_defaults(run=_schema)
    return parser


def summary(cell: Cell) -> dict[str, Any]:
    """Return what a list says about a cell, as JSON."""
    rule = cell.unsupported
    return {
        "id": cell.id,
        "model": cell.model.name,
        "feature": cell.feature.name,
        "cann": cell.cann.version,
        "hardware": cell.hardware.name,
        "supported": rule is None,
        "reason": rule.reason if rule else None,
        "time_limit": cell.feature.time_limit,
    }


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("a budget is at least one cell")
    return value


def _list(options: argparse.Namespace) -> int:
    matrix = load(options.root)
    if options.released:
        return _list_released(matrix, options)
    cells = everything(matrix)
    if options.all:
        chosen = candidates(matrix, cells, options.patterns, options.select)
    else:
        chosen = _narrowed(options, matrix, select(matrix, cells, options.patterns, options.select))
    if options.json:
        print(json.dumps([summary(cell) for cell in chosen], indent=2))
    elif sys.stdout.isatty():
        _print_table(chosen)
    else:
        for cell in chosen:
            print(cell.id + (f"\t{cell.unsupported.reason}" if cell.unsupported else ""))
    return 0


def _narrowed(options: argparse.Namespace, matrix: Matrix, cells: list[Cell]) -> list[Cell]:
    """Return what a rotation, a covering array or a budget leaves of the selected cells."""
    wanted = find(matrix, options.select) if options.select else None
    must = [cell for cell in cells if wanted and required(wanted, cell)]
    if options.covering:
        cells = must + covering([cell for cell in cells if cell not in must], must)
    elif wanted is not None and wanted.nights is not None:
        day = options.date or datetime.now(UTC).date()
        tonight = night(cells, day, wanted.nights, options.budget, must=must)
        if tonight.missed:
            print(f"warning: {tonight.shortage(wanted.nights, 'cells')}", file=sys.stderr)
        return tonight.cells
    if options.budget is None:
        return cells
    return within(cells, {cell.id: 1.0 for cell in cells}, options.budget, must=must)


def _print_table(cells: Sequence[Cell]) -> None:
    from rich.console import Console  # only a terminal pays for the import
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("cell", "title", "limit", "note"):
        table.add_column(column, overflow="fold")
    for cell in cells:
        rule = cell.unsupported
        title = f"{cell.model.title}: {cell.feature.title}"
        note = f"{rule.effect}: {rule.reason}" if rule else ""
        limit = f"{cell.feature.time_limit} s"
        table.add_row(cell.id, title, limit, note, style="dim" if rule else None)
    Console().print(table)
    print(f"{len(cells)} cells")


def _show(options: argparse.Namespace) -> int:
    matrix = load(options.root)
    cells = {cell.id: cell for cell in everything(matrix)}
    if options.cell not in cells:
        raise UnknownPattern(
            f"There is no cell {options.cell!r}.", did_you_mean(options.cell, cells)
        )
    cell = cells[options.cell]
    record = summary(cell) | {
        "selections": [s.name for s in matrix.selections.values() if contains(s, cell)],
        "rule": cell.unsupported.model_dump(mode="json") if cell.unsupported else None,
        "release": matrix.release.model_dump(mode="json"),
        "details": {
            part: getattr(cell, part).model_dump(mode="json", exclude_none=True)
            for part in ("model", "feature", "cann", "hardware")
        },
    }
    if options.json:
        print(json.dumps(record, indent=2))
    else:
        import yaml

        print(yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=96), end="")
    return 0


def _list_released(matrix: Matrix, options: argparse.Namespace) -> int:
    found = [
        claim
        for claim in Claims(matrix).matching(options.patterns or ["*"])
        if options.all or claim.cell.unsupported is None
    ]
    told = [
        summary(claim.cell)
        | {"cards": claim.cards, "shown_by": [str(showing) for showing in claim.shown_by]}
        for claim in found
    ]
    if options.json:
        print(json.dumps(told, indent=2))
        return 0
    for claim in told:
        shown = "; ".join(claim["shown_by"]) or "shown by nothing"
        print(f"{claim['id']}\t{claim['reason'] or shown}")
    return 0


def _resolve(options: argparse.Namespace) -> int:
    matrix = load(options.root)
    answer = resolve(matrix, options.model, options.hardware, options.feature, options.cann)
    if options.json:
        print(json.dumps(answer.document(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_told(answer)))
    return 0


def _told(answer: Answer) -> Iterator[str]:
    """Yield the lines in which an answer is printed."""
    document = answer.document()
    yield f"{document['cell']}: {document['weights']} on {answer.cards} device(s)"
    yield ""
    for name, version in document["versions"].items():
        yield f"  {name:<14}{version or 'not needed'}"
    yield f"  {'image':<14}{answer.image or 'none'}"
    yield ""
    for command in (answer.container, *answer.install, answer.serve):
        yield command
        yield ""
    if answer.request:
        yield f"In a request: {answer.request}."
    for showing in document["shown_by"]:
        yield f"Shown: {showing}."
    yield from (f"Note: {note}" for note in answer.notes)


def _tally(options: argparse.Namespace) -> int:
    found = tally(load(options.root))
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    for part, counts in found.items():
        print(part)
        for name, numbers in counts.items():
            told = ", ".join(f"{number} {what}" for what, number in numbers.items())
            print(f"  {name}: {told}")
    return 0


def _check(options: argparse.Namespace) -> int:
    matrix = load(options.root, datetime.now(UTC).date())
    cells = expand(matrix)
    if options.root is None:
        schemas_export.check()
        check_bodies(matrix, matrix.root.parent)
    supported = sum(cell.unsupported is None for cell in cells)
    pairs = combine(matrix)
    print(
        f"{display(matrix.root)} is valid: {len(matrix.models)} models, "
        f"{len(matrix.features)} features, {len(matrix.cann)} CANN versions, "
        f"{len(matrix.hardware)} hardware; {supported} of {len(cells)} cells are supported.\n"
        f"Of {len(pairs)} cells with two features {sum(c.unsupported is None for c in pairs)} "
        "are.\n"
        f"{sum(len(f.checkpoints) for f in matrix.families.values())} released checkpoints of "
        f"{len(matrix.families)} families, {len(matrix.releases)} releases."
    )
    return 0


def check_bodies(matrix: Matrix, repository: Path) -> None:
    """Raise InvalidData where a feature's body is not a function of its module's file.

    The files are parsed, not imported: bodies import torch. Without tests/ beside the matrix
    (an installed copy) there is nothing to check.
    """
    if not (repository / "tests" / "e2e").is_dir():
        return
    bodies = {f"features.yaml: {f.name}": f.body for f in matrix.features.values() if f.body}
    bodies["combinations.yaml: combinations"] = matrix.combinations.body
    for place, body in bodies.items():
        module, function = body.split(":")
        path = repository.joinpath(*module.split(".")).with_suffix(".py")
        names = _functions(path) if path.is_file() else []
        if function not in names:
            missing = (
                f"{display(path)} does not exist"
                if not path.is_file()
                else (f"{display(path)} defines no {function!r}. {did_you_mean(function, names)}")
            )
            raise InvalidData(
                f"matrix/{place}.body: {body!r}: {missing}",
                "A feature without a body could never be shown to work.",
            )


def _functions(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def _schema(options: argparse.Namespace) -> int:
    for path in schemas_export.write(options.out):
        print(display(path))
    return 0
