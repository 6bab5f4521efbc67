"""A record's document as the store keeps it: the record itself, its details, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

DETAILS = ("proof", "samples")
"""The bulky parts of a document that are kept apart, besides the log of an error."""


def split(document: dict[str, Any]) -> tuple[str, str]:
    """Return a document without its details, and its details, both as JSON text.

    What is empty is left out, so that a field that is added later changes no digest.
    """
    slim = _filled(document)
    details = {name: slim.pop(name) for name in DETAILS if name in slim}
    if "versions" in slim:
        slim["versions"] = _filled(slim["versions"])
    if "error" in slim:
        error = dict(slim["error"])
        details["log_tail"] = error.pop("log_tail", "")
        slim["error"] = error
    return _json(slim), _json(details)


def join(slim: str, details: str | None, archive: str | None = None) -> dict[str, Any]:
    """Return the document of a record; where its details were moved away, a note in their place.

    Args:
        slim: what `split` gave first.
        details: what it gave second; None where a pruning moved them away.
        archive: where to.

    Raises:
        ValueError: a text is no JSON.
    """
    document: dict[str, Any] = json.loads(slim)
    if details is not None:
        parts = json.loads(details)
        log = parts.pop("log_tail", None)
    else:
        note = f"moved to {archive}"
        parts, log = (
            ({"proof": {"moved": note}} if document.get("verdict") == "passed" else {}),
            note,
        )
    document |= parts
    if log is not None and isinstance(document.get("error"), dict):
        document["error"]["log_tail"] = log
    return document


def digest(slim: str, details: str) -> str:
    """Return the SHA-256 of what `split` gave.

    Equal digests mean equal records; records that only differ in their order have different ones.
    """
    return hashlib.sha256(f"{slim}\n{details}".encode()).hexdigest()


def _filled(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if value not in _EMPTY}


_EMPTY: tuple[Any, ...] = (None, "", [], {})
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
