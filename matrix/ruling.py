"""Which rules hold for a combination, answered by bit masks: one `and` for each combination.

A condition of a rule is about one part of a combination, or about model and feature together. So
each part gets a number once, whose bit i says that what rule i asks of this part is so; the rules
that hold for a combination are the bits that all of its parts have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import cache, partial
from itertools import product
from types import MappingProxyType
from typing import Any, TypeVar

from matrix.claims import Matrix
from matrix.schema import CannVersion, Feature, Hardware, Match, Model, Release, Rule, VersionBound

EntryT = TypeVar("EntryT")


class Ruling:
    """The rules of a matrix, ready to be asked about any of its combinations."""

    def __init__(
        self, matrix: Matrix, released: Mapping[str, Model] = MappingProxyType({})
    ) -> None:
        """Prepare the rules of `matrix` for its models, and for `released` ones."""
        self.rules = matrix.rules
        self._release = matrix.release
        self._known = {**matrix.models, **released}
        self._models = self._masks(self._known, lambda rule, model: _model(rule.when, model))
        self._features = self._masks(
            matrix.features, lambda rule, feature: _named(rule.when.feature, feature.name)
        )
        self._cann = self._masks(matrix.cann, self._on)
        self._hardware = self._masks(
            matrix.hardware | matrix.sharing,
            lambda rule, hardware: any(
                _named(rule.when.hardware, name)
                for name in (hardware.name, hardware.same_chip_as or hardware.name)
            ),
        )
        self.of_several_cards = self._mask(lambda rule: rule.when.several_cards is True)
        self._together = {
            both: self._mask(partial(_swapped, lambda rule, key: _together(rule.when, *key), both))
            for both in product((True, False), repeat=2)
        }
        self._everywhere = self._mask(lambda rule: rule.when.claimed is None)

    def claims(self, model: Model, feature: Feature, everywhere: bool = False) -> int:
        """Return the mask of the rules whose conditions on model and feature hold.

        Args:
            model: the model.
            feature: the feature.
            everywhere: leave out rules about which models claim which features.
        """
        own = self._models[model.name]
        if model is not self._known[model.name]:  # in another form than the one that is known
            own = self._mask(lambda rule: _model(rule.when, model))
        held = own & self._features[feature.name]
        if everywhere:
            held &= self._everywhere
        return held & self._together[applies(model, feature), claimed(model, feature)]

    def places(self, cann: CannVersion, hardware: Hardware) -> int:
        """Return the mask of the rules whose conditions on CANN version and hardware hold."""
        return self._cann[cann.version] & self._hardware[hardware.name]

    def rule(self, held: int) -> Rule | None:
        """Return the first rule of a mask, or None where it is empty."""
        return self.rules[(held & -held).bit_length() - 1] if held else None

    def _masks(
        self, entries: Mapping[str, EntryT], holds: Callable[[Rule, EntryT], bool]
    ) -> dict[str, int]:
        return {
            name: self._mask(partial(_swapped, holds, entry)) for name, entry in entries.items()
        }

    def _mask(self, holds: Callable[[Rule], bool]) -> int:
        return sum(1 << number for number, rule in enumerate(self.rules) if holds(rule))

    def _on(self, rule: Rule, cann: CannVersion) -> bool:
        return _named(rule.when.cann, cann.version) and within(rule, cann.version, self._release)


def claimed(model: Model, feature: Feature) -> bool:
    """Whether the model's list of features, if it has one, holds the feature."""
    return model.features is None or feature.name in model.features


def applies(model: Model, feature: Feature) -> bool:
    """Whether the feature is one of the model's task.

    A released model that reads images or sounds generates text, and has the features of that too;
    of its stand-in, only what is about images or sounds is asked.
    """
    tasks = (
        {model.task, "generate"} if model.released and model.task == "multimodal" else {model.task}
    )
    return not tasks.isdisjoint(feature.applies_to)


def within(rule: Rule, cann: str, release: Release) -> bool:
    """Whether the versions of a cell lie from `since` on and before `until`."""
    versions = {"cann": cann, "plugin": release.plugin, "vllm": release.vllm}
    return _all(rule.since, versions, lambda have, bound: have >= bound) and _all(
        rule.until, versions, lambda have, bound: have < bound
    )


def _swapped(holds: Callable[[Rule, EntryT], bool], entry: EntryT, rule: Rule) -> bool:
    return holds(rule, entry)


def _model(when: Match, model: Model) -> bool:
    return (
        any(_named(when.model, name) for name in (model.name, model.shown_on or model.name))
        and when.released in (None, model.released)
        and (when.several_cards is None or model.released)
        and _named(when.family, model.family)
        and _named(when.task, model.task)
        and when.quantised in (None, model.quantised)
        and (when.scheme is None or _named(when.scheme, model.scheme or ""))
    )


def _together(when: Match, fits: bool, listed: bool) -> bool:
    return when.applies in (None, fits) and when.claimed in (None, listed)


def _named(patterns: tuple[str, ...] | None, name: str) -> bool:
    return patterns is None or any(matcher(pattern)(name) for pattern in patterns)


@cache
def matcher(pattern: str) -> Callable[[str], object]:
    """Return what tells whether a name is matched by an fnmatch pattern, letter case included."""
    return re.compile(translate(pattern)).match


def _all(
    bound: VersionBound | None, versions: dict[str, str], compare: Callable[[Any, Any], bool]
) -> bool:
    if bound is None:
        return True
    from packaging.version import Version  # only rules with bounds pay for the import

    return all(
        compare(Version(versions[component]), Version(limit))
        for component, limit in bound.model_dump(exclude_none=True).items()
    )
