"""Lets torchvision's Python part be imported where its compiled part cannot be loaded.

torchvision 0.28.0 on PyPI links CUDA's libraries, and beside a torch without them its import ends
at "operator torchvision::nms does not exist": it describes the shapes of two operators that only
the compiled part defines. The image processors of transformers and vLLM use the transforms alone,
which are Python. `ci.environment` copies this file into the shared environment, with a `.pth` file
that imports it whenever Python starts, so it needs nothing but the standard library until then.
Where the compiled part loads, nothing is defined. Without it torchvision's own check refuses a call
of its operators by name, so that their schemas need no kernels here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

DESCRIBING = "torchvision._meta_registrations"
"""The module that names the operators, imported after the compiled part was looked for."""

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""As the compiled part declares them."""


class OperatorFinder:
    """Finds that one module as Python would, and has the schemas defined before it runs."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec; None for every other module, for which Python goes on."""
        if name != DESCRIBING:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def defined_first(module: ModuleType) -> None:
                define_missing()
                execute(module)

            spec.loader.exec_module = defined_first  # type: ignore[method-assign]
        return spec


def define_missing() -> None:
    """Defines the operators unless torchvision's compiled part has done so."""
    import torch

    for schema in SCHEMAS:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema.removeprefix(name))


if OperatorFinder not in sys.meta_path:
    sys.meta_path.insert(0, OperatorFinder)
