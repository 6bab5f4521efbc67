"""Shows a run to a person: progress while it goes on, a table and one summary line at its end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ci.environment import duration
from ci.plan import Job, Plan
from ci.runners import Result
from matrix.schema import ExpectedFailure
from reports import outcome
from reports.outcome import Conclusion, Expected

STYLES: Mapping[Conclusion, str] = {
    "passed": "green",
    "failed": "red",
    "error": "magenta",
    "inconclusive": "yellow",
    "expected failure": "yellow",
    "unexpected pass": "red",
}
"""The colour of each conclusion; the word is always there as well."""

TABLE_CHARACTERS = 72
"""How much of a proof or an error the table shows; the record has all of it."""

LOG_COLUMNS = 200
"""The width of a table in a log."""


def console() -> Console:
    """Standard output; a log has no width of its own, and a table cut to 80 columns is no use."""
    found = Console()
    return found if found.is_terminal else Console(width=LOG_COLUMNS)


class Display:
    """Prints a line for each cell that ends; on a terminal also what runs at the moment.

    Args:
        console: Where to print.
        plan: What is going to run.
        expected: Failures that are expected of cells.
    """

    def __init__(self, console: Console, plan: Plan, expected: Expected = outcome.NONE) -> None:
        self.console = console
        self.expected = expected
        self.total = len(plan.jobs)
        self.done = 0
        self.running: dict[str, float] = {}
        self.lock = threading.Lock()
        self.live = Live(
            console=console, get_renderable=self._status, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def note(self, text: str) -> None:
        """Prints something about the run as a whole."""
        self.console.print(escape(text), style="dim", highlight=False, soft_wrap=True)

    def started(self, job: Job) -> None:
        """Shows a cell as running."""
        with self.lock:
            self.running[job.cell.id] = time.monotonic()

    def finished(self, result: Result) -> None:
        """Prints how a cell ended."""
        with self.lock:
            self.done += 1
            self.running.pop(result.job.cell.id, None)
        width = len(str(self.total))
        line = Text(f"[{self.done:>{width}}/{self.total}] ")
        found = conclusion(result, self.expected)
        line.append(f"{found:<6}", STYLES[found])
        line.append(f" {result.job.cell.id}  {result.seconds:.1f} s")
        if result.error is not None:
            line.append(f"  {result.error.kind}: {first_line(result.error.message)}")
        self.console.print(line, highlight=False, soft_wrap=True)

    def _status(self) -> Table:
        """What runs now, for the bottom of a terminal."""
        grid = Table.grid(padding=(0, 1))
        now = time.monotonic()
        with self.lock:
            for cell, since in self.running.items():
                grid.add_row(Spinner("dots"), escape(cell), f"{now - since:.0f} s")
            grid.add_row("", f"{self.done} of {self.total} cells done", "")
        return grid


def conclusion(result: Result, expected: Expected) -> Conclusion:
    """What a result means for the run."""
    return outcome.conclude(result.verdict, expected.get(result.job.cell.id))


def table(results: Iterable[Result], evidence: str, expected: Expected = outcome.NONE) -> Table:
    """One row a cell: verdict, evidence, where the seconds went, and the proof in short.

    Args:
        results: The results in the order to show.
        evidence: ``simulated`` or ``hardware``.
        expected: Failures that are expected of cells.
    """
    shown = Table(header_style="bold", box=None, pad_edge=False)
    shown.add_column("cell", no_wrap=True)
    for name in ("verdict", "evidence"):
        shown.add_column(name, no_wrap=True)
    for name in ("import", "engine", "generate", "total s"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("proof, or what went wrong", no_wrap=True, overflow="ellipsis")
    results = list(results)
    shared = Counter(entry for result in results for entry in _entries(result))
    for result in results:
        found = conclusion(result, expected)
        shown.add_row(
            escape(result.job.cell.id),
            Text(found, STYLES[found]),
            evidence,
            *(_seconds(result, name) for name in ("import", "engine_start", "generation")),
            f"{result.seconds:.1f}",
            escape(_told(result, shared, expected.get(result.job.cell.id))),
        )
    return shown


def _told(result: Result, shared: Mapping[str, int], entry: ExpectedFailure | None) -> str:
    if entry is not None and result.verdict == "passed":
        return shorten(outcome.surplus(entry))
    if result.error is None:
        return proof_in_short(result, shared)
    whose = f"{entry.owner} until {entry.expires}; " if entry else ""
    return shorten(f"{whose}{result.error.kind}: {first_line(result.error.message)}")


def _seconds(result: Result, name: str) -> str:
    return f"{result.timings[name]:.1f}" if name in result.timings else "-"


def proof_in_short(result: Result, shared: Mapping[str, int]) -> str:
    """The entries of a proof that fit on a line, those of the fewest cells first.

    Args:
        result: The result of a cell.
        shared: How many cells of the run have each entry.
    """
    entries = sorted(_entries(result), key=lambda entry: shared.get(entry, 0))
    return shorten(", ".join(entries))


def _entries(result: Result) -> list[str]:
    # The commands are for the pages about serving; they would fill the line.
    return [f"{name}={value}" for name, value in result.proof.items() if name != "commands"]


def shorten(text: str) -> str:
    """A text cut to the table's width."""
    return text if len(text) <= TABLE_CHARACTERS else f"{text[: TABLE_CHARACTERS - 1]}…"


def first_line(text: str) -> str:
    """The first line of a message, which says what happened."""
    return text.strip().splitlines()[0] if text.strip() else ""


def summary(
    results: Sequence[Result], seconds: float, evidence: str, expected: Expected = outcome.NONE
) -> str:
    """One line: how many cells ended in which way, on what evidence, in what time."""
    counts = count(results, expected)
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    return f"{told or 'nothing ran'} ({evidence}) in {duration(seconds)}"


def count(results: Iterable[Result], expected: Expected = outcome.NONE) -> dict[str, int]:
    """How many results there are of each conclusion."""
    counts: dict[str, int] = dict.fromkeys(outcome.CONCLUSIONS, 0)
    for result in results:
        counts[conclusion(result, expected)] += 1
    return counts
