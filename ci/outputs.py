"""Writes the outputs of a step of a GitHub job, and warnings where people see them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ci.errors import UsageError

LIMIT = 1_000_000
"""The most bytes of a job's outputs in UTF-16, which is how GitHub counts them."""


def warn(text: str) -> None:
    """Prints a warning on standard error; in a job of GitHub it stands on the run's page, too.

    Args:
        text: One line.
    """
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(f"::warning::{text.replace('%', '%25')}", file=sys.stderr)
    else:
        print(f"warning: {text}", file=sys.stderr)


def write(values: Mapping[str, str]) -> None:
    """Appends outputs to the file that GitHub names in ``GITHUB_OUTPUT``.

    Args:
        values: Values of one line, by name.

    Raises:
        UsageError: This is no step of a GitHub job, a value has several lines, they are too long
            together, or the file cannot be written.
    """
    file = os.environ.get("GITHUB_OUTPUT")
    if not file:
        raise UsageError(
            "GITHUB_OUTPUT is not set, so there is nowhere to write outputs to",
            "this is no step of a GitHub job",
            "leave --github-output out, or set GITHUB_OUTPUT to a file",
        )
    for name, value in values.items():
        if "\n" in value:
            raise UsageError(
                f"the output {name} has several lines",
                "a line of it could be read as another output",
                "report this; outputs are one line each",
            )
    size = sum(len(value.encode("utf-16-le")) for value in values.values())
    if size > LIMIT:
        raise UsageError(
            f"the outputs have {size} bytes; GitHub takes {LIMIT} from a job",
            "too many cells for one run of a workflow",
            "plan a part of them, by pattern or selection",
        )
    try:
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.writelines(f"{name}={value}\n" for name, value in values.items())
    except OSError as error:
        raise UsageError(
            f"GITHUB_OUTPUT={file}: {error.strerror or error}",
            "the file was removed, or the disk is full",
            "set GITHUB_OUTPUT to a file that can be written",
        ) from error
