"""The comparison of two trees: `python -m perf compare --base REV`."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from matrix import Cell, expand, load, select
from matrix.errors import EmptySelection, MatrixError
from perf import markdown, processes, records, trees
from perf.errors import PerfError
from perf.trees import Tree
from perf.verdicts import Finding
from perf.worker import Spec
from reports import Record, Store, outcome
from reports.errors import ReportsError, StoreError

DEFAULT = ("smollm2-135m/base/cann-9.1.0/a2", "qwen3/base/cann-9.1.0/a2")
"""What is compared where nothing is named: real weights, and an architecture of another kind."""

BATCHES = {"smollm2-135m": (1, 8)}
OTHERS = (4,)
"""Sequences that are computed together, per model and for all other models."""

ENGINE: dict[str, Any] = {
    "kv_cache_memory_bytes": 512 << 20,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
    "seed": 0,
}
"""Engine settings below what the model and the feature say. Prefix caching is left as it comes, and
prompts repeat, so that a head which lost it computes more tokens."""


WIDTH = 150
"""Columns of the table where it does not go to a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the comparison."""
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="cells; default: two")
    parser.add_argument("--base", required=True, metavar="REV", help="what is compared with")
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--head", metavar="REV", help="what is judged; default: the working tree")
    head.add_argument("--head-tree", type=Path, metavar="DIR", help="a folder laid out like this")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="compare a working tree with changes"
    )
    parser.add_argument(
        "--pairs", type=_count, default=6, metavar="N", help="measured pairs of one start at least"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=20,
        metavar="S",
        help="for which one start measures pairs at least (default: 20)",
    )
    parser.add_argument(
        "--starts",
        type=_count,
        default=5,
        metavar="N",
        help="how often both engines are started at most, to tell whether the head is slower",
    )
    parser.add_argument(
        "--margin",
        type=_share,
        default=0.05,
        metavar="SHARE",
        help="by how much the host's time may grow (default: 0.05)",
    )
    parser.add_argument("--prompt-tokens", type=_count, default=150, metavar="N")
    parser.add_argument("--tokens", type=_count, default=16, metavar="N", help="decode steps")
    parser.add_argument("--threads", type=_count, default=1, metavar="N", help="of each side")
    parser.add_argument("--time-limit", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--store", metavar="URL", help="where records go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a comment there")


def run(options: argparse.Namespace, root: Path = processes.ROOT) -> int:
    """Compare; return the exit code."""
    try:
        return _run(options, root)
    except (PerfError, MatrixError, ReportsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace, root: Path) -> int:
    console = Console(stderr=True)

    def report(line: str) -> None:
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)

    cells = chosen(options.patterns)
    store = Store(options.store)
    pair = sides(options, root, report)
    folder = root / "build" / "perf" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    findings: list[Finding] = []
    done: list[Record] = []
    lost = 0
    for cell in cells:
        found, record = compare(cell, pair, folder / cell.id.replace("/", "__"), options, report)
        findings += found
        done.append(record)
        try:
            store.add(record)
        except StoreError as error:
            lost += 1
            print(f"error: {error}", file=sys.stderr)
    broken = [str(r.error.message) for r in done if r.verdict == "error" and r.error]
    show(pair, findings, broken)
    if options.markdown:
        text = markdown.comment(pair[0].label, pair[1].label, findings, broken)
        _write(options.markdown, text)
    if options.json:
        _write(options.json, json.dumps(outcome.document(done), indent=1) + "\n")
    return outcome.exit_code(done, lost)


def chosen(patterns: Sequence[str]) -> list[Cell]:
    """Return the cells that the patterns select, of those that generate on one card.

    Raises:
        UnknownPattern: a pattern matches nothing.
        EmptySelection: nothing that can be compared is left.
    """
    matrix = load()
    found = select(matrix, expand(matrix), patterns or DEFAULT)
    able = [c for c in found if c.model.task == "generate" and c.feature.cards == 1]
    if not able:
        raise EmptySelection(
            f"None of the {len(found)} selected cells can be compared.",
            "Only models that generate, on a single card, have a decode step to count.",
            "`python -m matrix list` shows the cells.",
        )
    return able


def sides(
    options: argparse.Namespace, root: Path, report: Callable[[str], None]
) -> tuple[Tree, Tree]:
    """Return base and head, laid out, each with a simulator that fits."""
    folder = root / "build" / "perf"
    base = trees.of_revision(root, options.base, folder / "trees")
    if options.head_tree:
        head = trees.of_folder(options.head_tree)
    elif options.head:
        head = trees.of_revision(root, options.head, folder / "trees")
    else:
        head = trees.working_tree(root, options.allow_dirty)
    if head.dirty:
        report(f"{head.label}: not a commit, so that nobody can measure it again")
    return trees.with_simulators(base, head, folder, report)


def compare(
    cell: Cell,
    pair: tuple[Tree, Tree],
    folder: Path,
    options: argparse.Namespace,
    report: Callable[[str], None],
) -> tuple[list[Finding], Record]:
    """Compare one cell; return the findings per batch size, and the record."""
    started, clock = datetime.now(UTC), time.monotonic()
    logs = [str(folder / side / "log.txt") for side in ("base", "head")]
    try:
        findings, about = _measure(cell, pair, folder, options, report)
    except (PerfError, MatrixError) as error:
        seconds = time.monotonic() - clock
        return [], records.make_error(cell, pair, error, started, seconds, logs)
    seconds = time.monotonic() - clock
    return findings, records.make(cell, pair, findings, about, started, seconds, logs)


def _measure(
    cell: Cell,
    pair: tuple[Tree, Tree],
    folder: Path,
    options: argparse.Namespace,
    report: Callable[[str], None],
) -> tuple[list[Finding], dict[str, Any]]:
    specs = [_spec(cell, tree, options) for tree in pair]
    batches = BATCHES.get(cell.model.name, OTHERS)
    findings = {batch: Finding(cell.id, batch, options.margin, 0) for batch in batches}
    about: dict[str, Any] = {}
    for start in range(options.starts):
        left = [finding for finding in findings.values() if not start or finding.undecided]
        if not left:
            break
        again = f" again ({start + 1} of at most {options.starts})" if start else ""
        report(f"{cell.id}: starting {pair[0].label} and {pair[1].label}{again}")
        with (
            processes.Worker(cell, pair[0], specs[0], folder / "base", options.time_limit) as base,
            processes.Worker(cell, pair[1], specs[1], folder / "head", options.time_limit) as head,
        ):
            base.ready()
            about = head.ready()
            for finding in left:
                finding.layers = int(about["layers"])
                interleave(finding, base, head, options.pairs, options.seconds, start)
                report(f"{cell.id}, batch {finding.batch}: {_so_far(finding)}")
    return list(findings.values()), about


def _so_far(finding: Finding) -> str:
    ratio = markdown.interval(finding.ratio)
    return f"{len(finding.base)} pairs, counters {finding.counters}, time {ratio}"


def interleave(
    finding: Finding, base: Any, head: Any, pairs: int, seconds: float = 0, start: int = 0
) -> None:
    """Measure pair after pair, each side first in every other, so that drift hits both.

    Two of each go before and are dropped: they fill caches, and the allocator's pool grows once
    more in the second.

    Args:
        finding: gets what was measured.
        base: the base's process.
        head: the head's.
        pairs: how many are kept at least.
        seconds: for which pairs are measured at least.
        start: the number of this start of both.
    """
    end = time.monotonic() + seconds
    for number in itertools.count(-2):
        if number >= pairs and time.monotonic() >= end:
            break
        order = [(base, finding.base), (head, finding.head)]
        for side, measured in order if number % 2 else reversed(order):
            found = side.measure(finding.batch)
            if number >= 0:
                measured.append(found)
        if number >= 0:
            finding.starts.append(start)


def _spec(cell: Cell, tree: Tree, options: argparse.Namespace) -> Spec:
    from matrix.checkpoints import materialise

    engine = {
        **ENGINE,
        "dtype": cell.model.dtype,
        "max_model_len": cell.model.max_model_len,
        **cell.model.engine,
        **cell.feature.engine,
    }
    longest = int(engine["max_model_len"])
    if options.prompt_tokens + options.tokens + 1 > longest:
        raise PerfError(
            f"{cell.id}: {options.prompt_tokens} + {options.tokens} tokens exceed {longest}.",
            "--prompt-tokens and --tokens together are longer than the model's context.",
            "Ask for fewer.",
        )
    return Spec(
        checkpoint=str(materialise(cell.model)),
        plugin=str(tree.plugin),
        engine=engine,
        prompt_tokens=options.prompt_tokens,
        tokens=options.tokens,
        threads=options.threads,
    )


# ------------------------------------------------------------------------------------------ telling


def show(pair: tuple[Tree, Tree], findings: Sequence[Finding], broken: Sequence[str]) -> None:
    """Print the table, and every changed counter by name."""
    # A file or a log has no width; there the table should not be folded to that of a terminal.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
    if findings:
        console.print(table(pair, findings))
    for finding in findings:
        name = f"{finding.cell}, batch {finding.batch}"
        for change in finding.changes:
            style = "red" if change.worse else "green"
            console.print(f"{name}: {change}", style=style, highlight=False, markup=False)
        for text in finding.unsteady:
            console.print(f"{name}: differs between runs of {text}", style="yellow", markup=False)
        if not finding.same_tokens:
            console.print(f"{name}: base and head generated different tokens", style="yellow")
    for message in broken:
        console.print(f"error: {message}", style="red", highlight=False, markup=False)


def table(pair: tuple[Tree, Tree], findings: Sequence[Finding]) -> Table:
    """Return the findings as a table."""
    made = Table(title=f"{pair[1].label} against {pair[0].label} (simulated NPU)")
    made.add_column("cell")
    for column in ("batch", "launches per step", "changed", "host ms per step", "time (95 %)"):
        made.add_column(column, justify="right")
    made.add_column("counters")
    made.add_column("verdict")
    styles = {"passed": "green", "failed": "red", "inconclusive": "yellow"}
    for finding in findings:
        ms = [
            1000 * sum(run["seconds_per_step"] for run in side) / len(side)
            for side in (finding.base, finding.head)
        ]
        made.add_row(
            finding.cell,
            str(finding.batch),
            markdown.launches(finding),
            str(len(finding.changes)),
            f"{ms[0]:.1f} → {ms[1]:.1f}",
            markdown.interval(finding.ratio),
            finding.counters,
            f"[{styles[finding.verdict]}]{finding.verdict}[/]",
        )
    return made


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    except OSError as error:
        raise PerfError(
            f"{file}: {error.strerror or error}",
            "The folder may not be written, or the disk is full.",
            "Name a file elsewhere; the records are in the store.",
        ) from error


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 10:
        raise argparse.ArgumentTypeError(f"{text} is no share, such as 0.05")
    return value
