"""Refuses to test another CANN than cannsim; sets up hypothesis (profiles quick and full)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "quick",
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "full",
    max_examples=500,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    """Ends the run with usage status 4 unless this process has cannsim's libraries."""
    config.addinivalue_line("markers", "slow: runs only with HYPOTHESIS_PROFILE=full")
    how = "Run `cannsim run -- python -m pytest simulator/tests`."
    try:
        from cannsim import counters
    except ImportError as error:
        raise pytest.UsageError(f"these tests need cannsim installed: {error}. {how}") from None
    try:
        counters.snapshot()
    except counters.NotSimulated as error:
        raise pytest.UsageError(f"these tests need the simulated NPU: {error}. {how}") from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves tests marked slow to the full profile."""
    if os.environ.get("HYPOTHESIS_PROFILE") == "full":
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: HYPOTHESIS_PROFILE=full runs it"))


@pytest.fixture(scope="session")
def no_task_queue() -> None:
    """An operator's error is raised at its own call, not at a later one, and does not end
    torch-npu's task queue: one failing test leaves the others alone. The other modes are tested
    in processes of their own (test_processes.py).
    """
    import torch
    import torch_npu  # noqa: F401

    # torch-npu reads the variable once, when it first uses a device.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASK_QUEUE_ENABLE", "0")
        torch.npu.set_device(0)
        torch.zeros(1, device="npu")


@pytest.fixture(autouse=True)
def first_device(no_task_queue: None) -> Iterator[None]:
    """Every test starts on device 0 and leaves nothing running."""
    import torch
    import torch_npu

    torch.npu.set_device(0)
    yield
    # Waiting for a device that no test has used gives it a context without a stream, and autograd's
    # thread, which looks for the stream of each device with a context, ends the process.
    for device in range(torch.npu.device_count()):
        if torch_npu._C._npu_hasPrimaryContext(device):
            torch.npu.synchronize(device)
