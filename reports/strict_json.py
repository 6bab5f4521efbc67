"""Reads JSON that others wrote: what is ambiguous, nested without end or no number is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_DEPTH = 64
"""How deep objects and lists may be nested; a record's are no deeper than ten."""


class _Decoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_once, parse_constant=_no_number)


def loads(text: str | bytes) -> Any:
    """Return the value in a JSON text.

    Raises:
        ValueError: it is no JSON, no UTF-8, names a key twice, says NaN or Infinity, or is nested
            deeper than `MAX_DEPTH`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    return value


def dumps(value: Any) -> bytes:
    """Return a value as JSON text in UTF-8, whatever its texts hold."""
    return json.dumps(value, indent=2).encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


_DECODER = _Decoder()
