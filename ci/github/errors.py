"""The ways in which talking to GitHub fails, each with its exit code."""

from __future__ import annotations

from ci.errors import BAD_USAGE, CiError


class GitHubError(CiError):
    """GitHub could not be asked, or gave no usable answer."""


class NoTokenError(GitHubError):
    """There is no token, or it cannot be one."""

    exit_code = BAD_USAGE


class RefusedError(GitHubError):
    """GitHub does not allow what was asked, or knows no such thing.

    Args:
        happened: What was observed.
        cause: Why that usually is.
        remedy: What the reader can do about it.
        status: The HTTP status.
    """

    exit_code = BAD_USAGE

    def __init__(self, happened: str, cause: str, remedy: str, status: int) -> None:
        super().__init__(happened, cause, remedy)
        self.status = status


class UnreachableError(GitHubError):
    """No answer, or none of GitHub's API, came back in spite of retries."""


class RateLimitedError(GitHubError):
    """GitHub asks for a longer wait than this command may take."""


class UncertainError(GitHubError):
    """A request that must not be repeated blindly got no clear answer: it may have been done."""


class UntrustedError(GitHubError):
    """What GitHub hands out was not made by what it claims, or is no data of ours."""

    exit_code = BAD_USAGE
