"""The pull request's comment: written once, found again by a hidden marker, and then edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ci.github.client import GitHub
from ci.github.errors import RefusedError, UncertainError
from reports.comment import LIMIT, MARKER, newest, render
from reports.outcome import NONE, Expected
from reports.record import Record

CUT = "\n\n*The rest was cut off; the run's artifacts have all of it.*\n"

Action = Literal["created", "edited", "unchanged"]
"""What became of the comment."""


# ---------------------------------------------------------------------------------- decisions, pure


def body(text: str) -> str:
    """The comment for a Markdown text: marked, and no longer than GitHub takes."""
    marked = text.strip().removeprefix(MARKER).strip()
    whole = f"{MARKER}\n{marked}\n"
    if len(whole) <= LIMIT:
        return whole
    # At a line's end, so that no row of a table is left open.
    kept = whole[: LIMIT - len(CUT)].rpartition("\n")[0]
    return kept + CUT


def of_run(
    run: Mapping[str, Any],
    records: Sequence[Record],
    unreadable: int,
    earlier: Iterable[Record],
    expected: Expected = NONE,
) -> str:
    """The text about a workflow run, as Markdown.

    Args:
        run: The run, as the API describes it.
        records: What its cells left behind.
        unreadable: How many files held no valid records.
        earlier: What is compared with; of each cell and kind the newest counts.
        expected: Failures that are expected of cells.
    """
    title = f"Cells at {str(run['head_sha'])[:12]} ([run]({run['html_url']}))"
    told = f"\n{unreadable} files of the run held no valid records.\n" if unreadable else ""
    limit = LIMIT - len(told) - len(CUT)
    return render(records, newest(earlier), limit, title, expected=expected) + told


def ours(comments: Iterable[Mapping[str, Any]], author: str | None) -> Mapping[str, Any] | None:
    """The oldest comment that begins with the marker and is by the author; None if there is none.

    A quotation of the marker does not stand at the beginning, and somebody else's comment with the
    marker is left alone.

    Args:
        comments: The comments of the API, oldest first.
        author: The login that writes; None where that is not known.
    """
    for comment in comments:
        login = (comment.get("user") or {}).get("login")
        if str(comment.get("body") or "").startswith(MARKER) and author in (None, login):
            return comment
    return None


def same(comment: Mapping[str, Any], text: str) -> bool:
    """Whether a comment already says this; GitHub may have changed its line ends."""
    return str(comment.get("body")).replace("\r\n", "\n").strip() == text.strip()


def pull_request(run: Mapping[str, Any], pulls: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of the open pull request whose newest commit a run was about.

    None when the run has been overtaken by another commit, or the pull request is closed. A run of
    one fork is never taken for one of another that has the same commit.
    """
    source = (run.get("head_repository") or {}).get("full_name")
    for pull in pulls:
        head = pull["head"]
        same_source = source is not None and (head.get("repo") or {}).get("full_name") == source
        if pull["state"] == "open" and same_source and head["sha"] == run["head_sha"]:
            return int(pull["number"])
    return None


# ---------------------------------------------------------------------------------- asking GitHub


def publish(github: GitHub, number: int, text: str, author: str | None) -> Action:
    """Creates the comment of a pull request, or edits the one that is there.

    When GitHub fails while the comment is created, the comments are read again, so that there are
    never two.

    Raises:
        GitHubError: GitHub refuses, or cannot be asked.
    """
    try:
        return _publish(github, number, text, author)
    except UncertainError:
        return _publish(github, number, text, author)


def _publish(github: GitHub, number: int, text: str, author: str | None) -> Action:
    there = ours(github.pages(f"issues/{number}/comments"), author)
    if there is not None:
        if same(there, text):
            return "unchanged"
        try:
            github.patch(f"issues/comments/{there['id']}", {"body": text})
        except RefusedError as error:
            if error.status != 404:
                raise
        else:
            return "edited"
    github.post(f"issues/{number}/comments", {"body": text})
    return "created"


def find_pull_request(github: GitHub, run: Mapping[str, Any]) -> int | None:
    """The number of the pull request that a run belongs to; forks do not tell it in the run."""
    owner = ((run.get("head_repository") or {}).get("owner") or {}).get("login")
    if not owner or not run.get("head_branch"):
        return None
    pulls = list(github.pages("pulls", state="open", head=f"{owner}:{run['head_branch']}"))
    return pull_request(run, pulls)
