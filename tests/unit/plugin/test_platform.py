"""The platform: what it answers without an engine, and how it refuses what it cannot serve."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="needs the shared environment")

from vllm.platforms import current_platform  # noqa: E402
from vllm_ascend.platform import NPUPlatform, UnsupportedOnNPU  # noqa: E402


def test_vllm_finds_the_platform() -> None:
    assert isinstance(current_platform, NPUPlatform)
    assert (current_platform.device_type, current_platform.dist_backend) == ("npu", "hccl")


def test_asking_for_the_device_does_not_initialise_it() -> None:
    """The engine is forked from the process that asks; an NPU does not survive a fork."""
    code = """
import torch
from vllm.platforms import current_platform
try:
    current_platform.get_device_total_memory()
except NotImplementedError as error:
    print(error)
print(torch.npu.is_initialized())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"
    assert "torch.npu.init" in ran.stdout


def test_the_device_answers() -> None:
    torch.npu.set_device(0)
    assert current_platform.get_device_name(0).startswith("Ascend")
    assert current_platform.get_device_total_memory(0) == torch.npu.mem_get_info(0)[1]
    assert current_platform.num_compute_units(0) > 0


def test_a_dtype_that_the_chip_lacks_is_refused() -> None:
    current_platform.check_if_supports_dtype(torch.bfloat16)
    with pytest.raises(UnsupportedOnNPU, match="float64"):
        current_platform.check_if_supports_dtype(torch.float64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_mla": True, "head_size": 320}, "head_size"),
        ({"use_sparse": True}, "sparse"),
        ({"use_mm_prefix": True}, "multimodal"),
    ],
)
def test_attention_that_is_not_supported_says_why(change: dict, words: str) -> None:
    from vllm.v1.attention.selector import AttentionSelectorConfig

    config = AttentionSelectorConfig(64, torch.bfloat16, "auto", 128)
    assert current_platform.get_attn_backend_cls(None, config).endswith("AscendAttentionBackend")
    with pytest.raises(UnsupportedOnNPU, match=f"(?i){words}"):
        current_platform.get_attn_backend_cls(None, config._replace(**change))


def test_importing_the_plugin_is_light_and_knows_no_simulator() -> None:
    """The package itself is imported by every vLLM process, so it must not import torch or vllm."""
    code = """
import sys, vllm_ascend
print([name for name in ("torch", "vllm", "cannsim") if name in sys.modules])
"""
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert found.stdout.strip() == "[]"


def configuration(experts: int, *, lora: bool = False, backend: str = "cumem"):
    from types import SimpleNamespace

    model = SimpleNamespace(
        dtype=torch.bfloat16,
        get_num_experts=lambda: experts,
        architecture="MixtralForCausalLM",
        is_hybrid=False,
        sleep_mode_backend=backend,
        quantization="none-to-look-for",
    )
    return SimpleNamespace(
        model_config=model,
        load_config=SimpleNamespace(load_format="auto"),
        parallel_config=SimpleNamespace(worker_cls="auto", world_size=1),
        lora_config=object() if lora else None,
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace()),
    )


def test_adapters_of_experts_are_refused() -> None:
    current_platform.check_and_update_config(configuration(0, lora=True))
    current_platform.check_and_update_config(configuration(8))
    with pytest.raises(UnsupportedOnNPU, match=r"LoRA.*MixtralForCausalLM.*merge"):
        current_platform.check_and_update_config(configuration(8, lora=True))


@pytest.mark.parametrize(("asked", "taken"), [("cumem", "ascend"), ("my-own", "my-own")])
def test_the_default_of_sleep_mode_is_the_plugins(asked: str, taken: str) -> None:
    config = configuration(0, backend=asked)
    current_platform.check_and_update_config(config)
    assert config.model_config.sleep_mode_backend == taken


def hybrid(**changes: object) -> SimpleNamespace:
    """What the platform reads of a configuration of a model with gated delta nets."""
    model = SimpleNamespace(architecture="Qwen3NextForCausalLM", max_model_len=512)
    cache = SimpleNamespace(
        enable_prefix_caching=True, mamba_cache_mode="align", mamba_block_size=128
    )
    parts = {"model_config": model, "cache_config": cache, "speculative_config": None}
    return SimpleNamespace(**{**parts, **changes})


def test_prefixes_of_models_with_states_are_not_cached() -> None:
    config = hybrid()
    NPUPlatform._keep_states(config)
    assert vars(config.cache_config) == {
        "enable_prefix_caching": False,
        "mamba_cache_mode": "none",
        "mamba_block_size": 512,
    }


def test_speculation_with_states_is_refused() -> None:
    with pytest.raises(UnsupportedOnNPU, match=r"Qwen3NextForCausalLM.*--speculative-config"):
        NPUPlatform._keep_states(hybrid(speculative_config=object()))
