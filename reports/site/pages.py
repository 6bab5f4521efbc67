"""Renders the site's own pages: the matrix, a page for each model and feature, and releases."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from matrix import CannVersion, Cell, Feature, Hardware, Model
from reports import quantised
from reports.site import families, serving, text
from reports.statuses import KINDS, SYMBOLS, Status
from reports.support import Support

_HERE = Path(__file__).parent
STRINGS = _HERE / "strings.yaml"
_TITLE = 200  # characters of what is shown when a pointer rests on a cell

Columns = Sequence[tuple[Hardware, Sequence[CannVersion]]]


@cache
def strings() -> dict[str, dict[str, str]]:
    """Return language to key to text."""
    found: dict[str, dict[str, str]] = yaml.safe_load(STRINGS.read_text(encoding="utf-8"))
    return found


def prose(support: Support, document: Mapping[str, Any]) -> dict[str, str]:
    """Return file name to MyST text of the pages that go to Sphinx with the prose."""
    environment = _environment(_shared(support, document))
    rendered = {
        f"{name}.md": environment.get_template(f"{name}.md.j2").render()
        for name in ("support", "counts")
    }
    return {**rendered, "quantised.txt": quantised.render(support)}


def pages(support: Support, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and content of every page of our own."""
    environment = _environment(_shared(support, document))
    render = partial(_render, environment)
    yield "matrix.html", render("matrix", here="matrix", root="")
    yield "releases.html", render("releases", here="releases", root="", **_releases(support))
    columns = _columns(support)
    models: dict[str, list[Cell]] = {name: [] for name in support.matrix.models}
    features: dict[str, list[Cell]] = {name: [] for name in support.matrix.features}
    for cell in support.cells.values():
        if cell.feature.name in features:  # pairs of features have the matrix page
            models[cell.model.name].append(cell)
            features[cell.feature.name].append(cell)
    below = {"root": "../", "columns": columns}
    for name, cells in models.items():
        context = _model(support, support.matrix.models[name], cells, columns)
        yield f"models/{name}.html", render("model", here="", **below, **context)
    for name, cells in features.items():
        context = _feature(support, support.matrix.features[name], cells, columns)
        yield f"features/{name}.html", render("feature", here="", **below, **context)
    yield from _families(support, render)
    grouped = {
        "model": _model_groups(support, models),
        "feature": _feature_groups(support, features),
    }
    for column, groups in grouped.items():
        kind = f"{column}s"
        context = {"heading": kind, "lead": f"{kind}_lead", "column": column, "groups": groups}
        yield f"{kind}/index.html", render("list", here=f"{kind}/index", root="../", **context)


def _render(environment: jinja2.Environment, name: str, **context: Any) -> str:
    return environment.get_template(f"{name}.html.j2").render(context)


def _families(support: Support, render: Any) -> Iterator[tuple[str, str]]:
    found = families.guides(support)
    ranges = list((support.matrix.hardware | support.matrix.sharing).values())
    for guide in found:
        context = {name: getattr(guide, name) for name in guide.__dataclass_fields__}
        page = render("family", here="", root="../", ranges=ranges, **context)
        yield f"families/{guide.family.name}.html", page
    yield (
        "families/index.html",
        render("families", here="families/index", root="../", guides=found, ranges=ranges),
    )


# ------------------------------------------------------------------------------- what pages show


def _model(
    support: Support, model: Model, cells: Sequence[Cell], columns: Columns
) -> dict[str, Any]:
    supported = [cell for cell in cells if cell.unsupported is None]
    counted = _counted(support, cells)
    rows = _rows(support, cells, columns, lambda cell: cell.feature)
    return {
        "model": model,
        "cells": supported,
        "counted": counted,
        "facts": _facts(model),
        "tutorial": serving.tutorial(support, model, supported),
        # A feature of which no cell is supported is told below, by its reason.
        "rows": [(f, found) for f, found in rows if any(s.state != "unsupported" for s in found)],
        "reasons": _reasons(cells),
        "badge_words": f"{model.title}: {counted['passed']} of {counted['supported']} passed",
    }


def _feature(
    support: Support, feature: Feature, cells: Sequence[Cell], columns: Columns
) -> dict[str, Any]:
    counted = _counted(support, cells)
    rows = _rows(support, cells, columns, lambda cell: cell.model)
    shown = [(m, found) for m, found in rows if any(s.state != "unsupported" for s in found)]
    kept = {model.name for model, _ in shown}
    left_out = [model.title for model, _ in rows if model.name not in kept]
    return {
        "feature": feature,
        "counted": counted,
        "flags": serving.flags(feature.engine),
        "rows": shown,
        "left_out": ", ".join(left_out),
        "badge_words": f"{feature.title}: {counted['passed']} of {counted['supported']} passed",
    }


def _facts(model: Model) -> list[tuple[str, Any]]:
    parameters = f"{model.parameters:,}" if model.parameters else None
    checkpoint = model.checkpoint
    source = {
        "package-gguf": lambda: f"{checkpoint.package} {checkpoint.version}",  # type: ignore[union-attr]
        "hub": lambda: f"{checkpoint.repo} @ {checkpoint.revision}",  # type: ignore[union-attr]
    }.get(checkpoint.kind)
    found = [
        ("architecture", model.architecture),
        ("family", model.family),
        ("task", _translated(f"task_{model.task}")),
        ("form", _translated("form_stand_in" if model.stand_in else "form_real")),
        ("stands_for" if model.stand_in else "released_as", ", ".join(model.represents)),
        ("parameters", parameters),
        ("dtype", model.dtype),
        ("context_length", model.max_model_len),
        ("weights_from", source() if source else None),
        ("license", model.license),
    ]
    return [(key, value) for key, value in found if value]


def _columns(support: Support) -> Columns:
    newest_first = list(reversed(support.matrix.cann.values()))
    return [(hardware, newest_first) for hardware in support.matrix.hardware.values()]


def _rows(
    support: Support, cells: Iterable[Cell], columns: Columns, of: Any
) -> list[tuple[Any, list[Status]]]:
    """Return what `of` says of each cell, to statuses in the order of the columns."""
    places = {
        (hardware.name, cann.version): place
        for place, (hardware, cann) in enumerate(
            (h, c) for h, versions in columns for c in versions
        )
    }
    found: dict[str, tuple[Any, list[Any]]] = {}
    for cell in cells:
        entry = of(cell)
        _, row = found.setdefault(entry.name, (entry, [None] * len(places)))
        row[places[cell.hardware.name, cell.cann.version]] = support.marks["e2e"][cell.id]
    return list(found.values())


def _counted(support: Support, cells: Iterable[Cell]) -> Counter[str]:
    """Return the number of cells in each state, and of those that are supported."""
    known = [support.marks["e2e"][cell.id] for cell in cells]
    found = Counter[str](s.state if s.applicable else "n/a" for s in known)
    found["supported"] = sum(s.state != "unsupported" for s in known)
    return found


def _reasons(cells: Iterable[Cell]) -> list[tuple[str, str | None, str]]:
    """Return reason, issue and names of features, for the rules that say not supported."""
    found: dict[tuple[str, str | None], dict[str, None]] = {}
    for cell in cells:
        rule = cell.unsupported
        if rule is not None and rule.effect != "not-applicable":
            found.setdefault((rule.reason, rule.issue), {})[cell.feature.title] = None
    return [(*key, ", ".join(names)) for key, names in found.items()]


def _model_groups(support: Support, cells: Mapping[str, Sequence[Cell]]) -> list[Any]:
    groups: dict[str, list[Any]] = {"form_real": [], "form_stand_in": [], "state_unsupported": []}
    for name, model in support.matrix.models.items():
        counted = _counted(support, cells[name])
        form = "form_stand_in" if model.stand_in else "form_real"
        group = form if counted["supported"] else "state_unsupported"
        groups[group].append((model, _plain(counted)))
    return [(group, entries) for group, entries in groups.items() if entries]


def _feature_groups(support: Support, cells: Mapping[str, Sequence[Cell]]) -> list[Any]:
    entries = [
        (feature, _plain(_counted(support, cells[name])))
        for name, feature in support.matrix.features.items()
    ]
    return [("features", entries)]


def _plain(counted: Counter[str]) -> dict[str, int]:
    return {key: counted[key] for key in ("passed", "supported")}


def _releases(support: Support) -> dict[str, Any]:
    """Return a table with a column for each field that any release has."""
    rows = [release.model_dump(mode="json") for release in support.matrix.releases.values()]
    names = [name for name in rows[0] if any(row[name] not in (None, [], "") for row in rows)]
    return {
        "columns": [name.replace("_", " ") for name in names],
        "rows": [[_flat(row[name]) for name in names] for row in rows],
    }


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(_flat(each) for each in value)
    return "–" if value is None else str(value)


# ------------------------------------------------------------------------------------ templates


def _shared(support: Support, document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "support": support,
        "release": support.matrix.release,
        "document": document,
        "strings_json": _json(strings()),
        "states": [*SYMBOLS, "n/a"],
        "symbols": {**SYMBOLS, "n/a": "–"},
        "kinds": KINDS,
    }


def _environment(shared: Mapping[str, Any]) -> jinja2.Environment:
    """Return where templates are; what data say is escaped, and control characters are shown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["json"] = _json
    environment.filters["cut"] = lambda words: text.start(words, _TITLE)
    environment.globals.update(shared, t=_translated, word=partial(_word, "en"))
    return environment


def _finalize(value: object) -> object:
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _word(language: str, key: str) -> str:
    return strings()[language][key]


@cache
def _translated(key: str) -> Markup:
    """Return a text that the page's switch of languages changes."""
    return Markup('<span data-t="{}">{}</span>').format(key, _word("en", key))


def _json(value: object) -> Markup:
    """Return JSON that cannot end the script element that it stands in."""
    found = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        found = found.replace(character, f"\\u{ord(character):04x}")
    return Markup(found)
