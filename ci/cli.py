"""The command line of the runs and of the fleet: ``python -m ci e2e|plan|...``, as nox calls it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from rich.console import Console

from ci import (
    catalogue,
    changes,
    checkpoints,
    choosing,
    display,
    environment,
    errors,
    learned,
    nightly,
    outputs,
    records,
    shards,
    workflows,
)
from ci.errors import CiError, UsageError
from ci.github import commands as github
from ci.plan import Job, Plan
from ci.runners import CellError, Result, Runner
from ci.runners.simulated import Settings, Simulated
from matrix import MatrixError
from reports import outcome, places
from reports.errors import ReportsError, StoreError
from reports.record import Record
from reports.store import Store

RUNNERS = ("simulated",)
"""The runners that exist."""

EXPLAINED = 12
"""How many cells of a plan are explained unless all are to be."""

KEPT_RUNS = 20
"""How many runs keep their logs in build/runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code of `ci/errors.py`."""
    options = parse(arguments)
    try:
        return COMMANDS[options.command](options)
    except (CiError, MatrixError, ReportsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {full(error)}", file=sys.stderr)
        return errors.INFRASTRUCTURE
    except KeyboardInterrupt:
        print("interrupted; what had ended is recorded", file=sys.stderr)
        return 130


def full(error: OSError) -> CiError:
    """What to say when a file of the run itself cannot be read or written."""
    return CiError(
        f"{error.filename or 'a file of this run'}: {error.strerror or error}",
        "the disk is full, or a folder belongs to another user",
        "free some space, and see to whom build/ and results/ belong; what had ended is recorded",
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse itself ends with status 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="python -m ci", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "run cells end to end"
    _add_run(_add_selection(commands.add_parser("e2e", help=text, description=text)))
    text = "print cells as the job matrix of a GitHub workflow, in JSON"
    _add_plan(_add_selection(commands.add_parser("plan", help=text, description=text)))
    text = "write .github/workflows from the templates and the runner catalogue"
    command = commands.add_parser("workflows", help=text, description=text)
    command.add_argument("--check", action="store_true", help="only tell what differs")
    text = "add the maps that several machines learned (--learn) to one"
    command = commands.add_parser("learned", help=text, description=text)
    command.add_argument("folder", type=Path, metavar="DIR", help="all *.json below it are maps")
    _add_map(command)
    nightly.add_parser(commands)
    github.add_parsers(commands)
    return parser.parse_args(arguments)


def _add_selection(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    add = parser.add_argument
    add("patterns", nargs="*", metavar="PATTERN", help="fnmatch on cell ids, as 'qwen3*/lora/*/a2'")
    add("--select", metavar="NAME", help="a selection of matrix/selections.yaml; smoke by default")
    add(
        *("--changed-from", "--base"),
        metavar="REV",
        help="what the change since REV can affect, as far as is known from --learn",
    )
    _add_map(parser)
    add("--explain", action="store_true", help="say of each cell why it was chosen")
    add("--budget", type=_positive, metavar="MINUTES", help="the best covering subset that fits")
    add("--date", type=date.fromisoformat, metavar="DAY", help="night of a rotation; today's")
    add("--jobs", type=int, metavar="N", help="cells at a time; by default what this machine holds")
    add("--store", metavar="URL", help="where records are; results/records.sqlite by default")
    return parser


def _add_map(parser: argparse.ArgumentParser) -> None:
    text = "what cells were seen to run; results/learned.json by default"
    parser.add_argument("--map", type=Path, default=learned.FILE, metavar="FILE", help=text)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--runner", default="simulated", metavar="NAME", help="where; simulated by default")
    add("--json", type=Path, metavar="FILE", help="write the outcome for machines")
    add("--learn", action="store_true", help="note what each cell runs, for --changed-from")
    add("--list", action="store_true", help="print the cells with estimates, and run nothing")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--runner", action="append", metavar="NAME", help="of ci/runners.yaml; may be repeated")
    add("--max-jobs", type=int, default=shards.MAX_JOBS, metavar="N", help="bundle cells above N")
    add("--harmless-is-fine", action="store_true", help="no job if a change can affect no cell")
    add("--github-output", action="store_true", help="also write it as outputs of a GitHub step")


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("minutes must be more than 0")
    return value


# ------------------------------------------------------------------------------------- the commands


def e2e(options: argparse.Namespace) -> int:
    """Selects, plans and runs cells; records, shows and returns how that went."""
    if options.runner not in RUNNERS:
        raise UsageError(
            f"--runner {options.runner}: there is no such runner",
            f"the runners of this version are: {', '.join(RUNNERS)}",
            "leave --runner out to run on simulated NPUs",
        )
    jobs = default_jobs() if options.jobs is None else options.jobs
    if jobs < 1:
        raise UsageError(
            f"--jobs {jobs}: at least one cell has to run at a time",
            "a number below 1 was given",
            "leave --jobs out for what this machine holds",
        )
    store = open_store(options.store)
    found = choosing.choose(options, store, jobs)
    if options.explain:
        choosing.explain(found)
    if options.list:
        return listing(found.plan, jobs, options.json)
    map_ = environment.ROOT / options.map if options.learn else None
    return execute(found, jobs, store, options.json, map_)


def plan_jobs(options: argparse.Namespace) -> int:
    """Prints the selected cells as a job matrix; a summary goes to standard error."""
    if not 1 <= options.max_jobs <= shards.MAX_JOBS:
        raise UsageError(
            f"--max-jobs {options.max_jobs}: a matrix has 1 to {shards.MAX_JOBS} jobs",
            "GitHub refuses larger ones",
            "leave --max-jobs out",
        )
    runners = catalogue.load()
    asked = [catalogue.named(runners, name) for name in options.runner or runners.names[:1]]
    cut: list[shards.Shard] = []
    try:
        chosen = choosing.choose(options, open_store(options.store), options.jobs or 1)
        choosing.explain(chosen, None if options.explain else EXPLAINED)
        cut = shards.cut(chosen.plan, asked, options.max_jobs)
    except changes.HarmlessError as error:
        if not options.harmless_is_fine:
            raise
        print(error.happened, file=sys.stderr)
    matrix_json = json.dumps(shards.matrix(cut), separators=(",", ":"))
    if options.github_output:
        outputs.write({"matrix": matrix_json, "jobs": str(len(cut))})
    print(matrix_json)
    cells = sum(len(shard.jobs) for shard in cut)
    longest = environment.duration(max((shard.estimate for shard in cut), default=0.0))
    print(
        f"{cells} cells in {len(cut)} jobs, the longest about {longest} after set-up",
        file=sys.stderr,
    )
    return errors.PASSED


def write_workflows(options: argparse.Namespace) -> int:
    """Generates the workflows, or tells what differs from what would be generated."""
    made = workflows.generate(catalogue.load())
    if not options.check:
        workflows.write(made)
        print("\n".join(str(path) for path in made))
        return errors.PASSED
    different = workflows.differences(made)
    if different:
        raise UsageError(
            "\n".join(different),
            "a workflow was edited by hand, or a template or ci/runners.yaml changed since",
            "run `python -m ci workflows`; changes belong into ci/templates",
        )
    print(f"{len(made)} generated files are up to date")
    return errors.PASSED


def merge_learned(options: argparse.Namespace) -> int:
    """Adds maps of what cells ran to the one that is kept; a broken one stops no other."""
    file = environment.ROOT / options.map
    whole, problems = learned.merge(options.folder, file)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"what {len(whole.cells)} cells run is known: {options.map}")
    return errors.BAD_USAGE if problems else errors.PASSED


COMMANDS = {
    "e2e": e2e,
    "plan": plan_jobs,
    "workflows": write_workflows,
    "learned": merge_learned,
    "nightly": nightly.nightly,
    **github.COMMANDS,
}
"""The commands by name."""


def open_store(url: str | None) -> Store:
    """The store at a URL; raises UsageError when it is no URL of a database."""
    try:
        return Store(url)
    except StoreError as error:
        raise UsageError(f"--store {url}: {error.what}", error.why, error.fix) from error


def default_jobs() -> int:
    """Cells at a time: one a processor, and 4 GB of memory for each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4e9
    return max(1, min(len(os.sched_getaffinity(0)), int(memory)))


def listing(chosen: Plan, jobs: int, file: Path | None) -> int:
    """Prints the cells of a plan in their order, with estimates."""
    for group in chosen.groups:
        print(f"{group.chip}, CANN {group.cann}, {group.devices} devices:")
        for job in group.jobs:
            print(f"  {job.cell.id}  about {job.estimate:.0f} s")
    total = environment.duration(chosen.makespan(jobs))
    print(f"{len(chosen.jobs)} cells, about {total} with {jobs} at a time")
    if file is not None:
        cells = [
            {"id": job.cell.id, "kind": "e2e", "estimate": job.estimate} for job in chosen.jobs
        ]
        write_json(file, {"cells": cells, "summary": {"cells": len(cells)}})
    return errors.PASSED


# --------------------------------------------------------------------------------------- a real run


@dataclass
class Recorder:
    """Hears of every result, stores its record at once, and passes it on to the display.

    A record that the store refuses is kept as a file by the store; the run goes on, and its exit
    code says so.
    """

    display: display.Display
    store: Store
    runner: Runner
    results: list[tuple[Result, Record]] = field(default_factory=list)
    problems: list[StoreError] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Passes a remark on."""
        self.display.note(text)

    def started(self, job: Job) -> None:
        """Passes a start on."""
        self.display.started(job)

    def finished(self, result: Result) -> None:
        """Stores the record of a cell and shows its end."""
        try:
            record = records.make(result, self.runner)
        except ValueError as error:
            result = unrecordable(result, error)
            record = records.make(result, self.runner)
        try:
            self.store.add(record)
        except StoreError as error:
            self.problems.append(error)
            self.note(f"error: {error}")
        self.results.append((result, record))
        self.display.finished(result)


def unrecordable(result: Result, error: ValueError) -> Result:
    """The result of a cell whose body returned what a record cannot hold."""
    told = CellError("InvalidOutcome", f"the body's outcome fits no record: {error}")
    return Result(
        result.job, result.group, "error", result.started, result.seconds, told, log=result.log
    )


def execute(
    found: choosing.Chosen, jobs: int, store: Store, file: Path | None, map_: Path | None = None
) -> int:
    """Runs what was chosen on the simulated runner; returns the exit code.

    Args:
        found: What to run.
        jobs: Cells at a time.
        store: Where records go.
        file: Where the outcome for machines goes, if anywhere.
        map_: Where what cells ran is noted, if it is.
    """
    started, chosen = time.monotonic(), found.plan
    console = display.console()
    folder = run_folder(environment.ROOT / "build" / "runs")
    shared = environment.Environment()
    traced = learned.TRACED if map_ else ()
    runner = Simulated(
        Settings(
            folder, lambda *which: environment.simulated(shared, *which), jobs=jobs, traced=traced
        )
    )
    with display.Display(console, chosen, found.expected) as shown:
        shown.note(
            f"{len(chosen.jobs)} cells on simulated NPUs, {jobs} at a time, about "
            f"{environment.duration(chosen.makespan(jobs))}; logs in {places.relative(folder)}"
        )
        recorder = Recorder(shown, store, runner)
        models = [job.cell.model.name for job in chosen.jobs]
        prepared = checkpoints.prepare(models, shown.note)
        try:
            runner.run(chosen, prepared, recorder)
        finally:
            finish(recorder, console, file, time.monotonic() - started)
            if map_:
                learn(recorder, map_)
    return exit_code(recorder, prepared)


def finish(recorder: Recorder, console: Console, file: Path | None, seconds: float) -> None:
    """Prints the table and the summary, and writes the outcome for machines."""
    recorder.display.live.stop()
    results = sorted((result for result, _ in recorder.results), key=lambda r: r.job.cell.id)
    evidence, expected = recorder.runner.evidence, recorder.display.expected
    if results:
        console.print()
        console.print(display.table(results, evidence, expected))
        console.print()
    console.print(display.summary(results, seconds, evidence, expected), highlight=False)
    for result in results:
        if display.conclusion(result, expected) == "unexpected pass":
            told = f"{result.job.cell.id} {outcome.surplus(expected[result.job.cell.id])}"
            console.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
    if recorder.problems:
        console.print(
            f"{len(recorder.problems)} records could not be stored; see above where they are kept",
            style="red",
        )
    if file is not None:
        write_json(file, outcome.document([record for _, record in recorder.results], expected))


def learn(recorder: Recorder, file: Path) -> None:
    """Adds what the cells that passed ran to the map; a run that broke off says too little."""
    entries = {
        record.cell: learned.entry(
            result.ran,
            environment.ROOT,
            record.versions.commit or "",
            record.started.date().isoformat(),
        )
        for result, record in recorder.results
        if result.ran is not None and result.verdict == "passed"
    }
    learned.save(learned.load(file).updated(entries), file)
    print(f"learned what {len(entries)} cells run: {file}")


def exit_code(recorder: Recorder, prepared: checkpoints.Checkpoints) -> int:
    """The code for a whole run; a gate that failed counts most.

    A checkpoint that could not be made gives its own code, as long as no gate failed.
    """
    records = [record for _, record in recorder.results]
    code = outcome.exit_code(records, len(recorder.problems), recorder.display.expected)
    if prepared.failures and code != errors.GATE_FAILED:
        return next(iter(prepared.failures.values())).exit_code
    return code


def run_folder(parent: Path) -> Path:
    """A new folder for the logs of a run, named by its start; the oldest ones are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for old in sorted(path for path in parent.iterdir() if path.is_dir())[: -KEPT_RUNS + 1]:
        shutil.rmtree(old, ignore_errors=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = parent / f"{stamp}-{os.getpid()}"
    folder.mkdir()
    return folder


def write_json(file: Path, content: object) -> None:
    """Writes a document in one step.

    Raises:
        UsageError: The file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(file)
    except OSError as error:
        raise UsageError(
            f"--json {file}: {error.strerror or error}",
            "the folder may not be written, or the disk is full",
            "name a file elsewhere; the records are in the store",
        ) from error
