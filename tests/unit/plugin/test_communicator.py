"""The communicator of one card: every collective that vLLM calls, over torch-npu's hccl backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="needs the shared environment")

import torch.distributed as dist  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.utils.import_utils import resolve_obj_by_qualname  # noqa: E402
from vllm_ascend.distributed.communicator import NPUCommunicator  # noqa: E402

counters = pytest.importorskip("cannsim.counters")


@pytest.fixture
def communicator(tmp_path) -> Iterator[NPUCommunicator]:
    torch.npu.set_device(0)
    dist.init_process_group("hccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    device_group, cpu_group = (
        dist.new_group([0], backend="hccl"),
        dist.new_group([0], backend="gloo"),
    )
    made = resolve_obj_by_qualname(current_platform.get_device_communicator_cls())
    yield made(cpu_group, torch.device("npu:0"), device_group, "tp")
    dist.destroy_process_group()


def test_collectives_of_one_rank_are_the_identity(communicator: NPUCommunicator) -> None:
    x = torch.arange(6, device="npu", dtype=torch.float32).view(2, 3)
    before = counters.snapshot()
    assert torch.equal(communicator.all_reduce(x.clone()), x)
    assert torch.equal(communicator.all_gather(x, 0), x)
    assert torch.equal(communicator.reduce_scatter(x.clone(), 0), x)
    assert torch.equal(communicator.broadcast(x.clone(), 0), x)
    torch.npu.synchronize()
    launches = counters.difference(counters.snapshot(), before)["launches"]
    assert launches["HcclAllReduce"]["count"] == 1
    assert isinstance(communicator, NPUCommunicator)
