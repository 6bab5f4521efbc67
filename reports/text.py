"""What others wrote, made fit to be kept and shown: cleaned, cut, and never read whole."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x9b[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)"  # OSC: titles, links
    r"|\x1b[ -/]*[0-~]"  # two characters, such as a reset
    # What is left of control characters, and marks that turn the direction of the text.
    r"|(?P<control>[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff])"
)
_UNSTORABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: str) -> str:
    """Return the text of a log as it would look on paper.

    Colours and other terminal sequences are left out, other control characters and halves of
    characters become U+FFFD, and every line ends with a line feed. Plain text stays as it is.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SEQUENCE.sub(lambda found: _REPLACEMENT if found["control"] else "", text)


def storable(value: Any) -> Any:
    """Return a JSON value with U+FFFD for what PostgreSQL or UTF-8 cannot hold in a text.

    That is NUL, halves of characters (lone surrogates) and other control characters. Objects that
    are no JSON are returned as they are.
    """
    if isinstance(value, str):
        return _UNSTORABLE.sub(_REPLACEMENT, value) if _UNSTORABLE.search(value) else value
    if isinstance(value, dict):
        return {storable(key): storable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [storable(part) for part in value]
    return value


_SUSPICIOUS = re.compile(rb"\\u00[0189]|\\u007|\\u[dD][89a-fA-F]|\x7f|\xc2[\x80-\x9f]")


def is_storable_json(text: str | bytes) -> bool:
    """Return whether `storable` would surely change nothing in the value of a valid JSON text.

    Control characters can only be in it by their numbers, which is quick to see.
    """
    content = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return not _SUSPICIOUS.search(content) and b"\xed" not in content


def cut(text: str, limit: int) -> str:
    """Return the end of `text`, at most `limit` characters of it, with a note of what is missing.

    Cutting again changes nothing.
    """
    if len(text) <= limit:
        return text
    note = f"[the end of {len(text):,} characters; what was before is cut off]\n"
    return note + text[len(note) - limit :]


def tail(path: Path, size: int) -> str:
    """Return the last `size` bytes of a file as text, from the start of a line; "" without one.

    No more than that is read, however long the file is.
    """
    try:
        with path.open("rb") as file:
            whole = file.seek(0, os.SEEK_END)
            file.seek(max(0, whole - size))
            text = file.read(size).decode(errors="replace")
    except OSError:
        return ""
    if whole <= size:
        return text
    _, newline, rest = text.partition("\n")
    return rest if newline else text
