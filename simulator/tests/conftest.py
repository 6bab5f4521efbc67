"""Refuses to test another CANN than cannsim, and sets hypothesis up: profiles quick and thorough."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

# An operator's error is raised at its own call, not at a later one, and does not end torch-npu's
# task queue: one failing test leaves the others alone. The other modes are tested in processes of
# their own (test_processes.py). torch-npu reads this when it is imported.
os.environ["TASK_QUEUE_ENABLE"] = "0"

hypothesis.settings.register_profile(
    "quick",
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "thorough",
    max_examples=500,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile(os.environ.get("CANNSIM_TEST_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    """Ends the run with usage status 4 unless this process has cannsim's libraries."""
    how = "Run `cannsim run -- python -m pytest simulator/tests`."
    try:
        from cannsim import counters
    except ImportError as error:
        raise pytest.UsageError(f"these tests need cannsim installed: {error}. {how}") from None
    try:
        counters.snapshot()
    except counters.NotSimulated as error:
        raise pytest.UsageError(f"these tests need the simulated NPU: {error}. {how}") from None


@pytest.fixture(autouse=True)
def first_device() -> Iterator[None]:
    """Every test starts on device 0 and leaves nothing running."""
    import torch
    import torch_npu  # noqa: F401

    torch.npu.set_device(0)
    yield
    for device in range(torch.npu.device_count()):
        torch.npu.synchronize(device)
