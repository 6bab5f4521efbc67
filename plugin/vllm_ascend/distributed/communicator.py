"""Collectives of one vLLM process group on NPUs."""

from vllm.distributed.device_communicators.base_device_communicator import DeviceCommunicatorBase


class NPUCommunicator(DeviceCommunicatorBase):
    """All collectives go through torch.distributed's ``hccl`` backend, as the base class does."""
