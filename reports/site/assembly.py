"""Builds the site: the prose of docs/ by Sphinx, and pages of our own out of the store."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matrix
from reports.errors import SiteError
from reports.site import badges, details, history, index, pages
from reports.store import Store
from reports.support import Support, derive

DOCS = Path(__file__).parents[2] / "docs"
STATIC = Path(__file__).parent / "static"
_MARKS = (".buildinfo", "matrix.json")  # what a folder with a site has: Sphinx's file, or ours


def build(
    store_url: str | None, out: Path, now: datetime | None = None, *, prose: bool = True
) -> Path:
    """Build the site from docs/, the matrix and the store into `out`; return `out`.

    The sources of the prose are assembled in `docs-src` beside `out`. The site opens from disk
    and loads nothing from other hosts; `matrix.json` beside its index has the data of its tables.

    Args:
        store_url: where the records are.
        out: an empty folder, or one with an earlier site.
        now: the moment that statuses are about.
        prose: whether to have the prose too, which takes Sphinx some seconds.

    Raises:
        StoreError: the store cannot be read.
        SiteError: Sphinx failed or warned, or `out` holds something else than a site.
    """
    support = derive(matrix.load(), Store(store_url), now or datetime.now(UTC))
    return write(support, out, prose=prose)


def write(support: Support, out: Path, *, prose: bool = True) -> Path:
    """Write the site about `support` into `out`; return `out`. Raises what `build` does."""
    out = out.absolute()
    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    document = index.document(support)
    if prose:
        source = out.parent / "docs-src"
        assemble(support, document, source)
        _sphinx(source, out)
    for folder in (STATIC, DOCS / "_static"):
        shutil.copytree(folder, out / "_static", dirs_exist_ok=True)
    for name, content in files(support, document):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return out


def assemble(support: Support, document: Mapping[str, Any], source: Path) -> None:
    """Write every source of the prose into the folder `source`, which is emptied first."""
    if not (DOCS / "conf.py").is_file():
        raise SiteError(
            f"{DOCS} has no conf.py.",
            "The site is built from a checkout; an installed copy has no docs.",
            "Run it in the root of the repository.",
        )
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name, content in pages.prose(support, document).items():
        (source / name).write_text(content, encoding="utf-8")


def files(support: Support, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and content of every file that is not Sphinx's.

    A page that is opened from disk may not fetch, so what is loaded later stands twice: as JSON
    for programs, and as a script that hands the same JSON to the page.
    """
    yield "matrix.json", _json(document)
    yield from _loaded("history", history.document(support))
    for name, found in details.by_model(support).items():
        yield from _loaded(f"cells/{name}", found)
    for name, picture in badges.badges(support).items():
        yield f"badges/{name}", picture
    yield from pages.pages(support, document)


def _loaded(name: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    content = _json(found)
    yield f"{name}.json", content
    yield f"{name}.js", f"amLoaded({json.dumps(name)},{content});\n"


def _json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _clear(out: Path) -> None:
    """Remove an earlier site, so that pages of models that are gone go too."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not any((out / mark).is_file() for mark in _MARKS):
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
