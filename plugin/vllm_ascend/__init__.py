"""vLLM's hardware plugin for Huawei Ascend NPUs: the two entry points that vLLM calls."""

import os


def register() -> str:
    """Names the platform (entry point group ``vllm.platform_plugins``).

    Importing torch-npu without CANN fails already at ``import torch``, so a process that gets
    here has an NPU stack.
    """
    # vLLM picks its second model runner wherever Triton has a driver; this plugin's is the first.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    return "vllm_ascend.platform.NPUPlatform"


def register_overrides() -> None:
    """Registers operators and the attention backend (entry point group ``vllm.general_plugins``).

    vLLM calls this in every process, and may call it again.
    """
    from vllm_ascend.overrides import register_all

    register_all()
