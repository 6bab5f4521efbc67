"""The command line `python -m accuracy`: run, port, change, baseline."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import matrix
from accuracy import loading, records, runs
from accuracy.errors import AccuracyError, EngineError, MissingBaseline, UnknownTask
from accuracy.gates import Change, Port, Position, judge_change, judge_port
from matrix import AccuracySuite, Cell, MatrixError, errors
from matrix.errors import DeviceError, EmptySelection, did_you_mean
from reports import outcome
from reports.errors import ReportsError, StoreError
from reports.record import Record
from reports.store import Store


@dataclass(frozen=True)
class Job:
    """One cell with the suite that judges it, and what is asked of it."""

    cell: Cell
    suite: AccuracySuite
    tasks: dict[str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Errors go to standard error, never a traceback."""
    options = _parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        code: int = options.run(options)
    except (AccuracyError, MatrixError, ReportsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return errors.INFRASTRUCTURE
    except KeyboardInterrupt:
        print("interrupted; what had ended is recorded", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return code


def _end(*_: object) -> None:
    """Take a request to end as an interrupt, so that no engine outlives this process."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m accuracy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("patterns", nargs="*", metavar="PATTERN", help="fnmatch on cell ids")
    shared.add_argument("--store", metavar="URL", help="SQLAlchemy URL (ASCEND_MATRIX_STORE)")
    shared.add_argument("--json", type=Path, metavar="FILE", help="write the outcome for machines")
    running = argparse.ArgumentParser(add_help=False, parents=[shared])
    running.add_argument("--select", metavar="NAME", help="a selection of matrix/selections.yaml")
    running.add_argument("--list", action="store_true", help="print what would run; run nothing")
    running.add_argument("--threads", type=int, default=0, metavar="N", help="threads of the CPU")

    run = commands.add_parser("run", parents=[running], help="tasks and both gates")
    run.add_argument("--task", action="append", default=[], metavar="NAME", help="only this task")
    run.add_argument("--limit", type=_positive, metavar="N", help="at most so many items a task")
    run.add_argument("--baseline", metavar="ID|latest", help="judge every item by that record")
    run.add_argument("--reference", action="store_true", help="ask transformers on the CPU too")
    run.set_defaults(run=_run)

    port = commands.add_parser("port", parents=[running], help="logprobs against transformers")
    port.set_defaults(run=_run, task=[], limit=0, baseline=None, reference=False)

    change = commands.add_parser("change", parents=[shared], help="compare two stored runs")
    change.add_argument("--baseline", metavar="ID|latest", help="what to compare with")
    change.add_argument("--record", metavar="ID", help="what is judged; by default the newest run")
    change.set_defaults(run=_change)

    baseline = commands.add_parser("baseline", parents=[shared], help="list possible baselines")
    baseline.set_defaults(run=_baseline)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least one item has to be asked")
    return value


# ----------------------------------------------------------------------------------------- choosing


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the cells of suites that the command line selects, with their tasks.

    Raises:
        MatrixError: a pattern or selection is unknown, or selects no cell of a suite.
        UnknownTask, InvalidTask, MissingData: a task cannot be asked.
    """
    claims = matrix.load()
    select = getattr(options, "select", None)
    cells = matrix.select(claims, matrix.expand(claims), options.patterns, select)
    chosen = []
    for cell in cells:
        suite = suite_of(claims, cell)
        if suite is not None:
            chosen.append(Job(cell, suite, _tasks(suite, options)))
    if not chosen:
        listed = ", ".join(p for suite in claims.accuracy.values() for p in suite.cells)
        raise EmptySelection(
            f"No suite of matrix/accuracy.yaml covers any of the {len(cells)} selected cells.",
            f"Accuracy is asked of: {listed}.",
            "Choose one of those, or add the cell to a suite.",
        )
    names = getattr(options, "task", [])
    if names and not any(job.tasks for job in chosen):
        asked = {task.name for suite in claims.accuracy.values() for task in suite.tasks}
        raise UnknownTask(
            f"No suite of the selected cells asks the task {names[0]!r}.",
            did_you_mean(names[0], asked),
        )
    return chosen


def suite_of(claims: matrix.Matrix, cell: Cell) -> AccuracySuite | None:
    """Return the suite that judges a cell, or None."""
    suites = claims.accuracy.values()
    return next((s for s in suites if any(fnmatchcase(cell.id, p) for p in s.cells)), None)


def _tasks(suite: AccuracySuite, options: argparse.Namespace) -> dict[str, int]:
    """Return task to number of items; every one is read, so that a fault shows before a run."""
    limit = getattr(options, "limit", None)
    if limit == 0:
        return {}
    wanted = getattr(options, "task", [])
    for name in wanted:
        loading.load(name)
    chosen = {
        task.name: min(task.items, limit) if limit else task.items
        for task in suite.tasks
        if not wanted or task.name in wanted
    }
    for name, count in chosen.items():
        task = loading.load(name)
        found = len(loading.items(task))
        if found < count:
            raise loading.too_few(task, count, found)
    return chosen


# ------------------------------------------------------------------------------------------ running


def _run(options: argparse.Namespace) -> int:
    chosen = jobs(options)
    store = Store(options.store)
    if options.list:
        return _list(chosen, options.json)
    baselines = _baselines(chosen, store, options.baseline)
    folder = runs.ROOT / "build" / "accuracy" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    console = Console(stderr=True)
    done: list[Record] = []
    problems = 0
    for job in chosen:
        asked = ", ".join(f"{n} of {task}" for task, n in job.tasks.items()) or "no tasks"
        console.print(f"{job.cell.id}: port gate and {asked} (simulated NPU)", highlight=False)
        record = execute(job, folder, baselines.get(job.cell.id), options)
        done.append(record)
        try:
            store.add(record)
        except StoreError as error:
            problems += 1
            console.print(f"error: {error}", style="red", highlight=False)
        show(record)
    if options.json:
        _write(options.json, outcome.document(done))
    return outcome.exit_code(done, problems)


def _list(chosen: Sequence[Job], file: Path | None) -> int:
    for job in chosen:
        asked = ", ".join(f"{task} ({n} items)" for task, n in job.tasks.items())
        print(f"{job.cell.id}  port gate{', ' + asked if asked else ''}")
    print(f"{len(chosen)} cells")
    if file:
        cells = [{"id": j.cell.id, "kind": "accuracy", "tasks": j.tasks} for j in chosen]
        _write(file, {"cells": cells, "summary": {"cells": len(cells)}})
    return errors.PASSED


def _baselines(chosen: Sequence[Job], store: Store, name: str | None) -> dict[str, Record]:
    """Return cell to baseline for the cells that answer tasks, before anything runs."""
    if name is None:
        return {}
    asked = [job.cell.id for job in chosen if job.tasks]
    if not asked:
        raise MissingBaseline(
            "--baseline: none of the selected cells answers tasks.",
            "Their weights are random, so that there is nothing to compare item by item.",
            "Leave --baseline out, or choose a cell of a suite with tasks.",
        )
    return {cell: _baseline_of(store, cell, name) for cell in asked}


def _baseline_of(store: Store, cell: str, name: str, judged: Record | None = None) -> Record:
    """Return the baseline of that name for a cell, other than the run that is judged.

    What is asked for by its id may be any record, and is looked for among all of them.

    Raises:
        MissingBaseline: there is none, or the name fits several.
    """
    if name != records.LATEST:
        stored = store.records(kind="accuracy")
        others = [r for r in stored if judged is None or r.id != judged.id]
        return records.choose(others, cell, name, store.name)
    before = judged.started if judged else None
    found = store.newest("accuracy", cell, "passed", before)
    if not records.candidates(found, cell):  # the newest may have asked nothing
        found = [r for r in store.records(cell, "accuracy") if not before or r.started < before]
    return records.choose(sorted(found, key=lambda r: r.started), cell, name, store.name)


def execute(job: Job, folder: Path, baseline: Record | None, options: argparse.Namespace) -> Record:
    """Run one cell and judge it; a run that does not get so far gives a record that says why."""
    started, clock = datetime.now(UTC), time.monotonic()
    place = folder / job.cell.id.replace("/", "__")
    log = place / "log.txt"
    try:
        measured = runs.measure(
            job.cell,
            place,
            job.tasks,
            reference=options.reference,
            threads=options.threads,
            time_limit=job.suite.time_limit,
        )
    except (EngineError, DeviceError) as error:
        seconds = time.monotonic() - clock
        return records.make_error(job.cell, error, runs.tail(log), started, seconds, log)
    seconds = time.monotonic() - clock
    port = judge_measured(measured, job.suite)
    change, undecided = None, None
    if baseline is not None:
        now = {
            (task, item["hash"]): item["correct"]
            for task, answers in measured["answers"].items()
            for item in answers
        }
        try:
            change = compared(baseline, now, job)
        except MissingBaseline as error:
            undecided = str(error)  # the answers are kept all the same
    return records.make(
        job.cell, measured, port, change, baseline, started, seconds, log, undecided
    )


def judge_measured(measured: dict[str, Any], suite: AccuracySuite) -> Port:
    """Return the port gate's findings about what a worker measured."""
    positions = [
        Position(
            **{
                **entry,
                "engine_top": tuple((int(t), float(p)) for t, p in entry["engine_top"]),
                "reference_at_top": tuple(entry["reference_at_top"]),
            }
        )
        for entry in measured["positions"]
    ]
    return judge_port(positions, suite.port)


def compared(baseline: Record, now: dict[tuple[str, str], bool], job: Job) -> Change:
    """Return the change gate's findings.

    Raises:
        MissingBaseline: the baseline answered none of these items.
    """
    try:
        return judge_change(records.outcomes(baseline), now, job.suite.change)
    except ValueError:
        raise MissingBaseline(
            f"{job.cell.id}: the baseline {baseline.id} answered none of these items.",
            "The tasks, their items or their prompts have changed since.",
            "Run without --baseline once; that run can be the next baseline.",
        ) from None


# ---------------------------------------------------------------------------------------- comparing


def _change(options: argparse.Namespace) -> int:
    if options.baseline is None:
        raise MissingBaseline(
            "change: --baseline is missing.",
            "Without a baseline nothing can be said about a change, and nothing is passed.",
            "Give --baseline ID or --baseline latest; `python -m accuracy baseline` lists them.",
        )
    store = Store(options.store)
    findings = []
    for job in [job for job in jobs(options) if job.tasks]:
        cell = job.cell.id
        newest = _judged(store, cell, options.record)
        baseline = _baseline_of(store, cell, options.baseline, newest)
        change = compared(baseline, dict(records.outcomes(newest)), job)
        _show_change(cell, newest, baseline, change)
        findings.append((cell, newest, baseline, change))
    if options.json:
        cells = [
            {"id": c, "record": n.id, "baseline": b.id, "change": records.describe(found)}
            for c, n, b, found in findings
        ]
        _write(options.json, {"cells": cells})
    verdicts = {change.verdict for *_, change in findings}
    if "failed" in verdicts:
        return errors.GATE_FAILED
    return errors.INCONCLUSIVE if "inconclusive" in verdicts else errors.PASSED


def _judged(store: Store, cell: str, name: str | None) -> Record:
    if name is not None:
        return _baseline_of(store, cell, name)
    own = records.candidates(store.newest("accuracy", cell), cell)
    if not own:  # the newest may have ended before it had answers
        own = records.candidates(store.records(cell, "accuracy"), cell)
    if not own:
        raise MissingBaseline(
            f"{cell}: no run with answers is stored in {store.name}.",
            "It never ran, or --store names another store.",
            f"Run `python -m accuracy run '{cell}'` first.",
        )
    return max(own, key=lambda record: record.started)


def _baseline(options: argparse.Namespace) -> int:
    store = Store(options.store)
    cells = [job.cell.id for job in jobs(options)]
    found = [r for cell in cells for r in records.candidates(store.records(cell, "accuracy"), cell)]
    if not found:
        raise MissingBaseline(
            f"No record in {store.name} can be a baseline of these cells.",
            "None of them has run with tasks, or --store names another store.",
            "Run `python -m accuracy run` first.",
        )
    for record in found:
        commit = (record.versions.commit or "?")[:10] + ("+" if record.versions.dirty else "")
        got = ", ".join(
            f"{name.removesuffix('/score')} {metric.value:.1%}"
            for name, metric in record.metrics.items()
            if name.endswith("/score") and name.count("/") == 1
        )
        print(
            f"{record.id}\t{record.cell}\t{record.started:%Y-%m-%d %H:%M}Z\t{commit}\t"
            f"{record.verdict}\t{len(record.samples)} items\t{got}"
        )
    if options.json:
        _write(options.json, {"baselines": [record.document() for record in found]})
    return errors.PASSED


# ------------------------------------------------------------------------------------------ telling


def show(record: Record) -> None:
    """Print a record: gates first, then scores."""
    console = Console(soft_wrap=True)
    style = {"passed": "green", "inconclusive": "yellow"}.get(record.verdict, "red")
    console.print(
        f"{record.cell}: {record.verdict} ({record.evidence}, {record.seconds:.0f} s, "
        f"record {record.id})",
        style=style,
        highlight=False,
    )
    if record.error:
        console.print(record.error.message, highlight=False, markup=False)
    m = {name: metric.value for name, metric in record.metrics.items()}
    if "port/positions" in m and "port/largest_difference" in m:
        console.print(
            f"port: {m['port/positions']:.0f} tokens, largest difference "
            f"{m['port/largest_difference']:.2e} nats, mean divergence "
            f"{m.get('port/mean_divergence', float('nan')):.1e} nats, "
            f"top-1 agreement {m['port/top1_agreement']:.2%}",
            highlight=False,
        )
    if "change/items" in m:
        console.print(
            f"change: {m['change/lost']:.0f} lost and {m['change/won']:.0f} won of "
            f"{m['change/items']:.0f} items, p = {m['change/p']:.3g}; true drop at most "
            f"{m['change/drop_at_most']:.1%}; {_seen(m.get('change/detectable_drop'))}",
            highlight=False,
        )
    tasks = [name for name in m if name.endswith("/score")]
    if tasks:
        console.print(_scores(m, tasks))


def _scores(values: dict[str, float], names: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("task", "score", "95 % interval", "items"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name in names:
        task = name.removesuffix("/score")
        table.add_row(
            task,
            f"{values[name]:.1%}",
            f"{values[task + '/low']:.1%} to {values[task + '/high']:.1%}",
            f"{values[task + '/items']:.0f}",
        )
    return table


def _seen(drop: float | None) -> str:
    if drop is None:
        return "no drop at all would be seen by so few items"
    return f"a drop of {drop:.1%} or more would be seen"


def _show_change(cell: str, newest: Record, baseline: Record, change: Change) -> None:
    print(f"{cell}: {change.verdict}: {newest.id} against {baseline.id}")
    for name, paired in {"all tasks": change.pooled, **change.tasks}.items():
        print(
            f"  {name}: {paired.lost} lost, {paired.won} won of {paired.items}, p = {paired.p:.3g}"
        )
    print(f"  true drop at most {change.at_most:.1%}; {_seen(change.detectable)}")
    for reason in change.reasons:
        print(f"  {reason}")


def _write(file: Path, content: object) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise AccuracyError(
            f"--json {file}: {error.strerror or error}",
            "The folder may not be written, or the disk is full.",
            "Name a file elsewhere; the records are in the store.",
        ) from error
