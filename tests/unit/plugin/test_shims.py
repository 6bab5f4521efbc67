"""Each row of the plugin's shims: its target exists with the signature that callers use, applying
is idempotent, and what stood there can be put back.
"""

from __future__ import annotations

import importlib
import inspect

import pytest

torch = pytest.importorskip("torch", reason="needs the shared environment")

from vllm_ascend import shims  # noqa: E402

SHIM_LIMIT = 10
"""The plugin's aim: fewer than ten."""


@pytest.fixture(autouse=True)
def untouched():
    shims.remove_all()
    yield
    shims.remove_all()


@pytest.mark.parametrize("shim", shims.SHIMS, ids=lambda row: row.target)
def test_target_exists(shim: shims.Shim) -> None:
    assert hasattr(importlib.import_module(shim.module), shim.name)
    assert shim.reason
    assert shim.removed_by


def test_kernel_warmup_is_called_as_its_replacement_takes() -> None:
    from vllm.model_executor.warmup.kernel_warmup import kernel_warmup

    expected = list(inspect.signature(kernel_warmup).parameters)
    assert list(inspect.signature(shims._no_warmup).parameters) == expected


def test_apply_replaces_and_remove_restores() -> None:
    before = {
        shim.target: getattr(importlib.import_module(shim.module), shim.name)
        for shim in shims.SHIMS
    }
    shims.apply_all()
    shims.apply_all()
    for shim in shims.SHIMS:
        assert (
            getattr(importlib.import_module(shim.module), shim.name) is not before[shim.target]
        ), shim.target
    shims.remove_all()
    for shim in shims.SHIMS:
        assert getattr(importlib.import_module(shim.module), shim.name) is before[shim.target], (
            shim.target
        )


def test_the_shimmed_names_are_the_npus() -> None:
    shims.apply_all()
    stream, event = torch.cuda.Stream(), torch.cuda.Event(blocking=True)
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        event.record()
    event.synchronize()
    assert stream.device.type == "npu"


def test_there_are_few() -> None:
    assert len(shims.SHIMS) < SHIM_LIMIT
    targets = [shim.target for shim in shims.SHIMS]
    assert len(targets) == len(set(targets))


@pytest.mark.parametrize("profiler", [None, "torch"])
def test_the_npus_profiler_is_taken(profiler: str | None) -> None:
    from vllm.config.profiler import ProfilerConfig

    folder = {"torch_profiler_dir": "/tmp"} if profiler else {}
    shims._check_profiler(ProfilerConfig(profiler=profiler, **folder))


def test_a_profiler_for_gpus_is_refused_with_the_one_to_take() -> None:
    from vllm.config.profiler import ProfilerConfig
    from vllm.profiler.wrapper import validate_worker_profiler_config

    with pytest.raises(ValueError, match=r"'cuda'.*torch_npu.profiler"):
        shims._check_profiler(ProfilerConfig(profiler="cuda"))
    expected = list(inspect.signature(validate_worker_profiler_config).parameters)
    assert list(inspect.signature(shims._check_profiler).parameters) == expected
