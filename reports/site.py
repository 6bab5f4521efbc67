"""Builds the site: the prose of docs/ with tables and record pages out of the store."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

import matrix
from reports import measures
from reports.errors import SiteError
from reports.record import Kind
from reports.statuses import KINDS, MEANINGS, SYMBOLS, Status
from reports.store import Store
from reports.support import DISCLAIMER, Support, as_json, derive

TEMPLATES = Path(__file__).parent / "templates"
DOCS = Path(__file__).parents[1] / "docs"
_HISTORY = 200  # runs shown on the page of a cell
_SAMPLES = 20  # samples shown on the page of a cell
_FLAGS: Mapping[Kind, str] = {"e2e": "", "accuracy": "", "perf": "--base HEAD~1 "}


def build(store_url: str | None, out: Path, now: datetime | None = None) -> Path:
    """Build the site from docs/, the matrix and the store into `out`; return `out`.

    The page sources are assembled in `docs-src` beside `out`. The site opens from disk and loads
    nothing from other hosts; `support.json` beside its index has the data of its tables.

    Raises:
        StoreError: the store cannot be read.
        SiteError: Sphinx failed or warned, or `out` holds something else than a site.
    """
    support = derive(matrix.load(), Store(store_url), now or datetime.now(UTC))
    out = out.absolute()
    _clear(out)
    source = out.parent / "docs-src"
    assemble(support, source)
    _sphinx(source, out)
    (out / "support.json").write_text(json.dumps(as_json(support), indent=2), encoding="utf-8")
    return out


def assemble(support: Support, source: Path) -> None:
    """Write every page source into the folder `source`, which is emptied first."""
    if not (DOCS / "conf.py").is_file():
        raise SiteError(
            f"{DOCS} has no conf.py.",
            "The site is built from a checkout; an installed copy has no docs.",
            "Run it in the root of the repository.",
        )
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name, text in pages(support).items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pages(support: Support) -> dict[str, str]:
    """Return file name to MyST text of every generated page."""
    shared: dict[str, Any] = {
        "support": support,
        "matrix": support.matrix,
        "disclaimer": "" if support.on_hardware else DISCLAIMER,
        "symbols": SYMBOLS,
        "kinds": KINDS,
        "others": partial(_others, support),
        "meanings": MEANINGS,
    }
    prose, html = _environment(html=False), _environment(html=True)
    texts = {
        f"{name}.md": environment.get_template(f"{name}.md.j2").render(shared)
        for name, environment in (("support", html), ("features", prose), ("models", prose))
    }
    template = html.get_template("cell.md.j2")
    for cell_id, status in support.statuses.items():
        if status.state == "unsupported":
            continue
        context = _cell_context(support, cell_id)
        texts[f"cells/{cell_id}.md"] = template.render({**shared, **context})
    return texts


def _cell_context(support: Support, cell: str) -> dict[str, Any]:
    marks = {kind: support.marks[kind][cell] for kind in KINDS}
    runs = support.history.get(cell, ())
    return {
        "cell": support.cells[cell],
        "marks": marks,
        "simulated": any(mark.evidence == "simulated" for mark in marks.values()),
        "runs": runs,
        "history": runs[:_HISTORY],
        "most_samples": _SAMPLES,
        "commands": {kind: f"nox -s {kind} -- {flags}'{cell}'" for kind, flags in _FLAGS.items()},
    }


@dataclass(frozen=True)
class _Mark:
    """A status that stands for one kind of runs, or for several of which there are none."""

    kinds: tuple[Kind, ...]
    status: Status


def _others(support: Support, cell: str) -> list[_Mark]:
    """Return what the table shows below the first status; kinds that never ran share a line."""
    marks = [(kind, support.marks[kind][cell]) for kind in KINDS if kind != support.kind]
    never = tuple(kind for kind, mark in marks if mark.state == "never-run")
    shown = [_Mark((kind,), mark) for kind, mark in marks if mark.state != "never-run"]
    return [*shown, *([_Mark(never, Status(cell, "never-run"))] if never else [])]


def _environment(*, html: bool) -> jinja2.Environment:
    """Return where templates are; with `html`, what records say is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=html,
        finalize=_finalize if html else None,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.filters["seconds"] = lambda value: f"{value:.1f} s"
    environment.filters["bound"] = _bound
    environment.filters["measures"] = measures.measures
    environment.filters["main_measures"] = measures.main
    return environment


def _finalize(value: object) -> object:
    """Escape what autoescaping leaves: a backtick in a log would end the fence around raw HTML."""
    if isinstance(value, Markup):
        return value
    return Markup(str(escape(value)).replace("`", "&#96;"))


def _bound(label: str) -> str:
    """Return a status label that breaks only before a parenthesis."""
    return label.replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}(", " (")


def _clear(out: Path) -> None:
    """Remove an earlier site, so that pages of cells that are gone go too."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / ".buildinfo").is_file():
        raise SiteError(
            f"{out} holds something else than a site.",
            "Building a site replaces the whole folder.",
            "Choose another folder with --out, or empty this one.",
        )
    shutil.rmtree(out)


def _sphinx(source: Path, out: Path) -> None:
    """Run Sphinx with warnings as errors; raises SiteError with what it said."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    doctrees = out.parent / "docs-doctrees"
    shutil.rmtree(doctrees, ignore_errors=True)
    run = subprocess.run(
        [*command, "-d", str(doctrees), str(source), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise SiteError(
            f"Sphinx ended with {run.returncode}:\n{(run.stderr or run.stdout).strip()}",
            "A page links to one that does not exist, or docs' requirements are not installed.",
            "Correct the page that is named, or install `.[docs]`.",
        )
