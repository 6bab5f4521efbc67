"""The schemes of ModelSlim's checkpoints that this plugin serves, by name and kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

from vllm.model_executor.layers.linear import register_weight_loader_v2_supported_method
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

from vllm_ascend.platform import UnsupportedOnNPU

Method = TypeVar("Method", bound=type[QuantizeMethodBase])

LINEAR, EXPERTS, ATTENTION = "linear", "experts", "attention"
"""Kinds of layers."""

_SCHEMES: dict[tuple[str, str], type[QuantizeMethodBase]] = {}


class UnsupportedQuantization(UnsupportedOnNPU):
    """What this plugin, the chip or the checkpoint does not have; the message says what is."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like a given one as a question, or all known names."""
    names = sorted(set(known))
    close = get_close_matches(name, names, 1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names) or 'none'}."


def register_scheme(name: str, kind: str) -> Callable[[Method], Method]:
    """Registers the decorated method as that of a scheme for a kind of layer.

    Raises:
        ValueError: the pair is taken.
    """

    def register(method: Method) -> Method:
        taken = _SCHEMES.get((name, kind))
        if taken is not None:
            raise ValueError(f"{name} for {kind} layers is {taken.__qualname__} already")
        _SCHEMES[name, kind] = method
        return register_weight_loader_v2_supported_method(method)

    return register


def schemes(kind: str) -> list[str]:
    """Names of the schemes for a kind of layer."""
    return sorted(name for name, of in _SCHEMES if of == kind)


def find_scheme(name: str, kind: str, layer: str) -> type[QuantizeMethodBase]:
    """The method of a scheme.

    Raises:
        UnsupportedQuantization: there is none; names the layer and the nearest scheme.
    """
    method = _SCHEMES.get((name, kind))
    if method is None:
        raise UnsupportedQuantization(
            f"{layer} is quantised as {name!r}, which is not implemented for {kind} layers on an "
            f"NPU. {nearest(name, schemes(kind))}"
        )
    return method
