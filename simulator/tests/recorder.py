"""A pytest plugin that notes which of torch-npu's operators are called, and by which tests.

``pytest -p simulator.tests.recorder --operators FILE`` leaves them in ``FILE`` as JSON: by name
(``npu_rms_norm``, ``npu_fused_infer_attention_score.out``), the first test that called it and
passed.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

NAMESPACES = ("npu::", "atb::")


class Recorder(TorchDispatchMode):
    """Sees every operator on its way to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for namespace in NAMESPACES:
            if func.name().startswith(namespace):
                self.names.add(func.name().removeprefix(namespace))
        return func(*args, **(kwargs or {}))


class Plugin:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.called: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        with Recorder() as recorder:
            result = yield
        for name in recorder.names:  # not reached by a test that fails
            self.called.setdefault(name, pyfuncitem.nodeid)
        return result

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.called, indent=1, sort_keys=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--operators", type=Path, help="where to leave the names of operators")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.operators is not None:
        config.pluginmanager.register(Plugin(config.option.operators))
