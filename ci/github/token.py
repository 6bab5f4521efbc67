"""The token: read from the environment, and never shown by anything that prints it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ci.github.errors import NoTokenError

VARIABLES = ("GH_TOKEN", "GITHUB_TOKEN")
"""Environment variables that are looked at, in this order, as GitHub's own tools do."""

HIDDEN = "***"


class Token:
    """A secret that only `header` gives away.

    Args:
        value: The token itself.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"Token({HIDDEN})"

    def header(self) -> str:
        """The value of the header ``Authorization``."""
        return f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        """The text without the token, in case somebody sent it back."""
        return text.replace(self._value, HIDDEN)


def read(environment: Mapping[str, str] | None = None) -> Token:
    """The token of the environment.

    Raises:
        NoTokenError: There is none, or it holds what no token holds.
    """
    environment = os.environ if environment is None else environment
    for name in VARIABLES:
        value = environment.get(name, "").strip()
        if not value:
            continue
        if not re.fullmatch(r"[!-~]+", value):
            raise NoTokenError(
                f"{name} holds a space, a line break or another character that no token has",
                "more than the token was copied, or a file with several lines was read",
                f"set {name} to the token alone; it is not shown here",
            )
        return Token(value)
    raise NoTokenError(
        f"no token for GitHub's API: neither {' nor '.join(VARIABLES)} is set",
        "this shell has no token, or the job of a workflow does not pass it on",
        "set GH_TOKEN; in a workflow: `env: GH_TOKEN: ${{ github.token }}`",
    )
