"""Makes text of unknown origin fit for a page: visible, one reading order, and not too long."""

from __future__ import annotations

from typing import Any

_KEPT = "\n\t"
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_DEPTH = 6  # levels of a nested value


def clean(text: str) -> str:
    """Return the text with control characters made visible.

    Controls become their pictures (an escape reads ␛), and marks that reverse the reading order,
    lone surrogates and what Unicode does not assign become their code points.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _KEPT else _visible(c) for c in text)


def _visible(character: str) -> str:
    point = ord(character)
    if point < 0x20:
        return chr(0x2400 + point)
    if point == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    if point in _BIDI or not character.isspace():
        return f"<U+{point:04X}>"
    return " "


def start(text: str, limit: int) -> str:
    """Return the first `limit` characters, cleaned, and say how many were cut."""
    if len(text) <= limit:
        return clean(text)
    return f"{clean(text[:limit])} … ({len(text) - limit:,} more characters were cut)"


def end(text: str, limit: int) -> str:
    """Return the last `limit` characters, cleaned, and say how many were cut before them."""
    if len(text) <= limit:
        return clean(text)
    return f"({len(text) - limit:,} characters before this were cut) …\n{clean(text[-limit:])}"


def value(found: Any, limit: int, depth: int = _DEPTH) -> Any:
    """Return a JSON value whose texts are cleaned and cut, and whose lists and depth are bounded.

    Args:
        found: what json.loads returns.
        limit: characters of a text, and entries of a list or mapping.
        depth: levels that are kept.
    """
    if isinstance(found, str):
        return start(found, limit)
    if isinstance(found, dict):
        if depth == 0:
            return f"… ({len(found)} keys)"
        kept = list(found.items())[:limit]
        return {start(str(key), limit): value(each, limit, depth - 1) for key, each in kept}
    if isinstance(found, list | tuple):
        if depth == 0:
            return f"… ({len(found)} entries)"
        shown = [value(each, limit, depth - 1) for each in found[:limit]]
        return [*shown, f"… ({len(found) - limit} more entries)"] if len(found) > limit else shown
    return found
