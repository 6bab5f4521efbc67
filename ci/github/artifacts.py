"""Reads records out of the artifacts of a workflow run; nothing of them is unpacked or trusted."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from ci.errors import NothingSelectedError
from ci.github.client import GitHub
from ci.github.errors import UntrustedError
from reports import ingest
from reports.errors import RecordError, ReportsError
from reports.ingest import Entry
from reports.record import Record

PATTERN = "records-*"
"""Names of the artifacts that hold records."""

MAX_BYTES = 50_000_000
"""The most bytes of one artifact, packed as well as unpacked."""

MAX_FILES = 2_000
"""The most files in one artifact."""

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a way of packing that this Python does not know
    RuntimeError,  # a file behind a password
)
"""What reading a damaged or odd archive raises."""

OWN_EVENTS = frozenset({"schedule", "workflow_dispatch", "push"})
"""What starts a run of the repository's own code."""


@dataclass(frozen=True)
class Found:
    """What the artifacts of a run hold.

    Args:
        entries: The records, and what was refused, in the order of the artifacts.
    """

    entries: tuple[Entry, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """The records."""
        return tuple(e.found for e in self.entries if isinstance(e.found, Record))

    @property
    def problems(self) -> tuple[ReportsError, ...]:
        """What could not be read, for a person."""
        return tuple(e.found for e in self.entries if isinstance(e.found, ReportsError))


# ---------------------------------------------------------------------------------- decisions, pure


def check_own(run: Mapping[str, Any], repository: str) -> None:
    """Makes sure that a run was of the repository's own, reviewed code.

    The code of a pull request writes its records itself, and so could claim anything.

    Raises:
        UntrustedError: A pull request or another repository started the run.
    """
    source = (run.get("head_repository") or {}).get("full_name")
    if run["event"] in OWN_EVENTS and str(source).lower() == repository.lower():
        return
    raise UntrustedError(
        f"run {run['id']} was started by {run['event']!r} of {source}",
        "what a pull request's own code claims about itself is no evidence",
        "name a run of the nightly, or give --any-run with a --store of its own",
    )


def chosen(artifacts: list[Mapping[str, Any]], run: int) -> list[Mapping[str, Any]]:
    """The artifacts that hold records and can still be had.

    Raises:
        NothingSelectedError: There is none.
    """
    named = [a for a in artifacts if fnmatchcase(str(a["name"]), PATTERN)]
    kept = [a for a in named if not a["expired"]]
    if not kept:
        raise NothingSelectedError(
            f"run {run} has no artifact {PATTERN} that can still be had",
            "all have expired" if named else "its jobs ended before they wrote records",
            "look at the run's page; name a newer run",
        )
    return kept


def documents(content: bytes, name: str, limit: int = MAX_BYTES) -> Iterator[tuple[str, bytes]]:
    """The JSON files in a zip archive, as name and content; it is read in memory only.

    Raises:
        UntrustedError: It is no archive, or larger than any set of records.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = [i for i in archive.infolist() if i.filename.endswith(".json")]
            # The sizes are those that the archive claims; reading stops there in any case.
            if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > limit:
                raise UntrustedError(
                    f"{name}: more than {MAX_FILES} files or {limit} bytes once unpacked",
                    "it holds something else than records",
                    "look at the artifact by hand",
                )
            for info in infos:
                yield f"{name}/{info.filename}", archive.read(info)
    except BROKEN as error:
        raise UntrustedError(
            f"{name}: no archive of JSON files ({error})",
            "the download was cut off, or the artifact was made by something else",
            "run the command again, or look at the artifact by hand",
        ) from None


def entries(content: bytes, origin: str, run_url: str) -> Iterator[Entry]:
    """What is in a file that ``--json`` wrote, or in that of a single record.

    Args:
        content: What the file holds.
        origin: Its name, for errors.
        run_url: The address of the run; a record that names none gets it, and one of another run
            is refused.
    """
    for entry in ingest.documents(content, origin):
        yield _of_run(entry, run_url) if isinstance(entry.found, Record) else entry


def _of_run(entry: Entry, run_url: str) -> Entry:
    record = entry.found
    assert isinstance(record, Record)
    if record.run_url == run_url:
        return entry
    if record.run_url is None:
        return replace(entry, found=record.model_copy(update={"run_url": run_url}))
    error = RecordError(
        f"{entry.origin}: the record of {record.cell} is of the run {record.run_url}.",
        f"It was copied into the artifacts of {run_url}.",
        "Name the run that made it.",
    )
    return replace(entry, found=error, content=record.to_json(indent=2).encode())


# ---------------------------------------------------------------------------------- asking GitHub


def collect(github: GitHub, run: Mapping[str, Any], limit: int = MAX_BYTES) -> Found:
    """Downloads the artifacts of a run and reads their records.

    A file that holds no records is a problem that is told; the others are read all the same.

    Raises:
        NothingSelectedError: The run has no artifacts with records.
        GitHubError: GitHub refuses or cannot be asked, or an artifact is not what it should be.
    """
    number = int(run["id"])
    listed = list(github.pages(f"actions/runs/{number}/artifacts", "artifacts"))
    found: list[Entry] = []
    for artifact in chosen(listed, number):
        content = github.download(f"actions/artifacts/{artifact['id']}/zip", limit)
        for name, text in documents(content, str(artifact["name"]), limit):
            found += entries(text, name, str(run["html_url"]))
    return Found(tuple(found))
