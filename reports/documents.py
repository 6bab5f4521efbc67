"""A record's document as the store keeps it: the record itself, its details, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from reports.record import Record

DETAILS = ("proof", "samples")
"""The bulky parts of a document that are kept apart, besides the log of an error."""


def split(document: dict[str, Any]) -> tuple[str, str]:
    """Return a document without its details, and its details, both as JSON text."""
    slim = {name: part for name, part in document.items() if name not in DETAILS}
    details = {name: document[name] for name in DETAILS if name in document}
    if slim.get("error"):
        slim["error"] = dict(slim["error"])
        details["log_tail"] = slim["error"].pop("log_tail", "")
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


def digest(record: Record) -> str:
    """Return the SHA-256 of everything that a record says, in whatever order it was written.

    What is empty does not count, so that a field that is added later changes no digest.
    """
    document = record.document()
    filled = _filled({**document, "versions": _filled(document["versions"])})
    text = json.dumps(filled, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _filled(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if value not in (None, "", [], {})}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
