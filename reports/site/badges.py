"""Badges: small SVG pictures that say how many cells passed, and on what evidence."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import escape

from reports.site import text
from reports.statuses import Status
from reports.support import Support

_WIDTHS = {" ": 3.6, "i": 3.2, "l": 3.2, "1": 6.4, "m": 10.4, "w": 9.2, "(": 4.6, ")": 4.6}
_WIDTH = 6.9  # an average letter of Verdana at 11 px; textLength makes browsers keep to it
_CHARACTERS = 60
_COLOURS = {"all": "#15703a", "some": "#8a4b00", "failing": "#a91d2b", "none": "#5c6370"}


def badges(support: Support) -> dict[str, str]:
    """Return file name to SVG: `support.svg`, and one for each model and feature."""
    statuses = support.marks["e2e"]
    models: dict[str, list[Status]] = {name: [] for name in support.matrix.models}
    features: dict[str, list[Status]] = {name: [] for name in support.matrix.features}
    for cell_id, cell in support.cells.items():
        models[cell.model.name].append(statuses[cell_id])
        for name in cell.feature.name.split("+"):
            features[name].append(statuses[cell_id])
    found = {"support.svg": of("vLLM on Ascend", statuses.values())}
    for name, model in support.matrix.models.items():
        found[f"model-{name}.svg"] = of(model.title, models[name])
    for name, feature in support.matrix.features.items():
        found[f"feature-{name}.svg"] = of(feature.title, features[name])
    return found


def of(label: str, statuses: Iterable[Status]) -> str:
    """Return a badge about the end-to-end runs of some cells."""
    supported = [status for status in statuses if status.state != "unsupported"]
    passed = [status for status in supported if status.state == "passed"]
    failing = any(status.state in ("failed", "error") for status in supported)
    if not supported:
        return draw(label, "not supported", "none")
    if all(status.record is None for status in supported):
        return draw(label, "never run", "none")
    said = f"{len(passed)} of {len(supported)} cells passed"
    evidence = " and ".join(sorted({s.evidence for s in passed if s.evidence}))
    colour = "failing" if failing else "all" if len(passed) == len(supported) else "some"
    return draw(label, f"{said} ({evidence})" if evidence else said, colour)


def draw(label: str, message: str, colour: str) -> str:
    """Return an SVG with a label at the left and a message at the right, both escaped."""
    label, message = text.start(label, _CHARACTERS), text.start(message, _CHARACTERS)
    left, right = _length(label) + 12, _length(message) + 12
    words = "".join(
        f'<text x="{x}" y="14" textLength="{_length(said)}">{escape(said)}</text>'
        for x, said in ((6, label), (left + 6, message))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{escape(label)}: {escape(message)}">'
        f"<title>{escape(label)}: {escape(message)}</title>"
        f'<clipPath id="r"><rect width="{left + right}" height="20" rx="3"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#3b424d"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[colour]}"/></g>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{words}</g>'
        "</svg>\n"
    )


def _length(words: str) -> int:
    wide = 11.0  # a Chinese character is as wide as it is high
    return round(sum(_WIDTHS.get(c, _WIDTH if ord(c) < 0x2E80 else wide) for c in words))
