"""Cells of two features that are on at once, as ids `<model>/<a>+<b>/cann-<version>/<hardware>`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from matrix.cells import Cell, expand
from matrix.claims import Matrix
from matrix.errors import InvalidData, UnknownReference, did_you_mean
from matrix.ruling import Ruling, matcher
from matrix.schema import Combination, Combinations, Feature, Model, PairRule


def everything(matrix: Matrix) -> list[Cell]:
    """Return every cell of one feature, and after them every cell of two."""
    return expand(matrix) + combine(matrix)


def combine(matrix: Matrix) -> list[Cell]:
    """Return a cell for every pair of features, the unsupported ones with their rule.

    What a rule says of one of the two features holds for the pair, too, unless it is only about
    which model claims a feature: pairs are shown with models of their own.
    """
    ruling, given = Ruling(matrix), matrix.combinations
    places = [
        (cann, hardware, ruling.places(cann, hardware))
        for cann in matrix.cann.values()
        for hardware in matrix.hardware.values()
        if _any(given.cann, cann.version) and _any(given.hardware, hardware.name)
    ]
    cells = []
    for names in combinations(sorted(matrix.features), 2):
        pair = join(matrix.features[names[0]], matrix.features[names[1]], given)
        model, own = shown_with(matrix, pair), pair_rule(given, *names)
        claims = [ruling.claims(model, part, everywhere=True) for part in pair.parts]
        for cann, hardware, held in places:
            rule = next((r for c in claims if (r := ruling.rule(c & held))), None)
            first = own and (rule is None or own.effect == "not-applicable")
            cells.append(Cell(model, pair, cann, hardware, own if first else rule))
    return cells


def join(one: Feature, other: Feature, given: Combinations) -> Combination:
    """Return two features as one; the order in which they are named makes no difference."""
    first, second = sorted((one, other), key=lambda feature: feature.name)
    both = (first, second)
    return Combination.model_construct(
        name=f"{first.name}+{second.name}",
        title=f"{first.title} and {second.title}",
        description=f"{first.description} {second.description}",
        proof=f"Both at once: {first.proof} {second.proof}",
        body=given.body,
        applies_to=tuple(task for task in first.applies_to if task in second.applies_to),
        transport="http" if any(f.transport == "http" for f in both) else "inprocess",
        engine={**first.engine, **second.engine},
        parameters={},
        time_limit=given.time_limit,
        cards=max(first.cards, second.cards),
        docs=None,
        parts=both,
    )


def shown_with(matrix: Matrix, pair: Combination) -> Model:
    """Return the model that shows a pair: the first that one of its features has, or the common."""
    given = matrix.combinations
    names = {part.name for part in pair.parts}
    own = [model for feature, model in given.models.items() if feature in names]
    return matrix.models[own[0] if own else given.model]


def pair_rule(given: Combinations, one: str, other: str) -> PairRule | None:
    """Return the rule against a pair, or the one that no body runs both yet; None if one does."""
    for rule in given.rules:
        for a, b in ((one, other), (other, one)):
            if _any(rule.one, a) and _any(rule.other, b):
                return rule
    missing = [name for name in (one, other) if name not in given.features]
    if not missing:
        return None
    return PairRule(
        name="not-shown-together",
        one=tuple(missing),
        other=("*",),
        reason=given.otherwise.format(features=" and ".join(missing)),
    )


def check_combinations(matrix: Matrix, place: str) -> None:
    """Raise unless every name leads somewhere, and features of a pair agree on the engine.

    Raises:
        UnknownReference: a feature, a model or a pattern names nothing.
        InvalidData: two features of a pair want the engine differently, and no rule says so.
    """
    given = matrix.combinations
    features, models = list(matrix.features), list(matrix.models)
    named: list[tuple[str, tuple[str, ...], list[str]]] = [
        ("features", given.features, features),
        ("model", (given.model,), models),
        ("models", tuple(given.models), features),
        ("models", tuple(given.models.values()), models),
        ("cann", given.cann, list(matrix.cann)),
        ("hardware", given.hardware, list(matrix.hardware)),
        *((f"rules.{rule.name}", rule.one + rule.other, features) for rule in given.rules),
    ]
    for key, patterns, names in named:
        for pattern in patterns:
            if not any(matcher(pattern)(name) for name in names):
                raise UnknownReference(
                    f"{place}.{key}: nothing is called, or matched by, {pattern!r}.",
                    did_you_mean(pattern, names),
                )
    for one, other in combinations(sorted(given.features), 2):
        if pair_rule(given, one, other) is None:
            _check_engine(matrix.features[one], matrix.features[other], place)


def _check_engine(one: Feature, other: Feature, place: str) -> None:
    ours: Mapping[str, object] = one.engine
    for key, value in other.engine.items():
        if key in ours and ours[key] != value:
            raise InvalidData(
                f"{place}.rules: {one.name} wants the engine's {key} to be {ours[key]!r}, and "
                f"{other.name} {value!r}.",
                "An engine is started once, with one value for each argument.",
                "Give both features the same value, or add a rule with a reason for the pair.",
            )


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(matcher(pattern)(name) for pattern in patterns)
