"""Chooses cells by patterns on their ids and by named selections; never nothing silently."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from matrix.cells import Cell
from matrix.claims import Matrix
from matrix.errors import (
    EmptySelection,
    UnknownPattern,
    UnknownReference,
    UnknownSelection,
    did_you_mean,
    nearest,
)
from matrix.ruling import matcher
from matrix.schema import Selection


def select(
    matrix: Matrix,
    cells: Sequence[Cell],
    patterns: Sequence[str] = (),
    selection: str | None = None,
) -> list[Cell]:
    """Return the supported cells that the selection holds and that any pattern matches.

    Without a selection every cell is a candidate; without patterns all candidates are taken.

    Raises:
        UnknownSelection: no selection has that name.
        UnknownPattern: a pattern matches no cell, supported or not.
        EmptySelection: nothing that was asked for is both supported and in the selection.
    """
    chosen = candidates(matrix, cells, patterns, selection)
    supported = [cell for cell in chosen if cell.unsupported is None]
    if not supported:
        raise _empty(chosen, patterns, selection)
    return supported


def candidates(
    matrix: Matrix,
    cells: Sequence[Cell],
    patterns: Sequence[str] = (),
    selection: str | None = None,
) -> list[Cell]:
    """Return what `select` chooses from: the unsupported cells are still there.

    Raises:
        UnknownSelection: no selection has that name.
        UnknownPattern: a pattern matches no cell.
    """
    for pattern in patterns:
        if not any(matches(pattern, cell.id) for cell in cells):
            raise _unknown(matrix, pattern)
    chosen = [cell for cell in cells if not patterns or _any(patterns, cell.id)]
    if selection is None:
        return chosen
    wanted = find(matrix, selection)
    return [cell for cell in chosen if contains(wanted, cell)]


def find(matrix: Matrix, selection: str) -> Selection:
    """Return the selection of that name; raises UnknownSelection."""
    if selection not in matrix.selections:
        raise UnknownSelection(
            f"There is no selection {selection!r}.", did_you_mean(selection, matrix.selections)
        )
    return matrix.selections[selection]


def contains(selection: Selection, cell: Cell) -> bool:
    """Whether a selection's patterns match the cell, supported or not."""
    return _any(selection.cells, cell.id) and not _any(selection.exclude, cell.id)


def required(selection: Selection, cell: Cell) -> bool:
    """Whether the cell comes first in the selection, whatever the budget."""
    return contains(selection, cell) and _any(selection.must, cell.id)


def check_selections(matrix: Matrix, cells: Sequence[Cell]) -> None:
    """Raise UnknownReference for a selection with a pattern that matches no supported cell."""
    ids = [cell.id for cell in cells if cell.unsupported is None]
    for name, selection in matrix.selections.items():
        for key in ("cells", "exclude", "must"):
            patterns: tuple[str, ...] = getattr(selection, key)
            for pattern in patterns:
                if not any(matches(pattern, id_) for id_ in ids):
                    raise UnknownReference(
                        f"{matrix.root.name}/selections.yaml: {name}.{key}: the pattern "
                        f"{pattern!r} matches no supported cell.",
                        _advice(matrix, pattern),
                    )


def matches(pattern: str, id_: str) -> bool:
    """Whether a pattern is of a cell; only one with a `+` is of cells with two features.

    The order of the two makes no difference: `qwen3/lora+*/*/a2` is of all pairs with LoRA.
    """
    if "+" not in pattern:
        return "+" not in id_ and matcher(pattern)(id_) is not None
    return any(matcher(pattern)(name) for name in (id_, _swapped(id_)))


def _swapped(id_: str) -> str:
    model, feature, *place = id_.split("/")
    return "/".join((model, "+".join(reversed(feature.split("+"))), *place))


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def _unknown(matrix: Matrix, pattern: str) -> UnknownPattern:
    return UnknownPattern(
        f"The pattern {pattern!r} matches no cell.",
        _advice(matrix, pattern),
        "Ids are <model>/<feature>/cann-<version>/<hardware>; `python -m matrix list` shows them.",
    )


def _advice(matrix: Matrix, pattern: str) -> str:
    """Say which component of a pattern names nothing, and the pattern that was probably meant."""
    axes = (
        ("model", list(matrix.models)),
        ("feature", list(matrix.features)),
        ("CANN version", [cann.name for cann in matrix.cann.values()]),
        ("hardware", list(matrix.hardware)),
    )
    parts = pattern.split("/")
    problems, suggestion = [], []
    for part, (sort, names) in zip(parts, axes, strict=False):
        if "+" in part or _matches(names, part):
            suggestion.append(part)
            continue
        close = nearest(part, names)
        listed = "" if close else f"; there is {', '.join(names)}"
        problems.append(f"No {sort} is matched by {part!r}{listed}.")
        suggestion.append(close or "*")
    suggestion += ["*"] * (len(axes) - len(parts))
    text = "/".join(suggestion)
    return " ".join(problems) + (f"{' ' if problems else ''}Did you mean {text!r}?")


def _matches(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _empty(
    chosen: Sequence[Cell], patterns: Sequence[str], selection: str | None
) -> EmptySelection:
    asked = " and ".join(
        [f"the pattern {pattern!r}" for pattern in patterns]
        + ([f"the selection {selection!r}"] if selection else [])
    )
    what = f"Nothing is selected by {asked or 'the whole matrix'}."
    if not chosen:
        return EmptySelection(what, "The patterns and the selection have no cell in common.")
    lines = [f"{c.id}: {c.unsupported.reason}" for c in chosen[:3] if c.unsupported]
    return EmptySelection(what, "Every cell that matches is unsupported:\n  " + "\n  ".join(lines))
