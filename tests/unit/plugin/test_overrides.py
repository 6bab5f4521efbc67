"""Each row of the plugin's override registry: its target exists, and calling vLLM's own name
launches the CANN operator that the row promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib.metadata import entry_points

import pytest

torch = pytest.importorskip("torch", reason="needs the shared environment")

from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config  # noqa: E402

from vllm_ascend.overrides import OVERRIDES, Override, register_all, register_triton_kernels, resolve  # noqa: E402
from vllm_ascend.platform import IR_PROVIDER  # noqa: E402

counters = pytest.importorskip("cannsim.counters")

HIDDEN, HEAD, HEADS, TOKENS = 64, 32, 2, 5


@pytest.fixture(autouse=True)
def engine_configuration() -> Iterator[None]:
    register_all()
    register_triton_kernels()
    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("npu"))):
        yield


def on_npu(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="npu")


def call_rms_norm() -> None:
    from vllm import ir

    ir.ops.rms_norm.impls[IR_PROVIDER].impl_fn(on_npu(TOKENS, HIDDEN), on_npu(HIDDEN), 1e-6)


def call_fused_add_rms_norm() -> None:
    from vllm import ir

    ir.ops.fused_add_rms_norm.impls[IR_PROVIDER].impl_fn(
        on_npu(TOKENS, HIDDEN), on_npu(TOKENS, HIDDEN), on_npu(HIDDEN), 1e-6
    )


def call_gemma_rms_norm() -> None:
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm

    GemmaRMSNorm(HIDDEN).to("npu")(on_npu(TOKENS, HIDDEN))


def call_silu_and_mul() -> None:
    from vllm.model_executor.layers.activation import SiluAndMul

    SiluAndMul()(on_npu(TOKENS, HIDDEN))


def call_gelu_and_mul() -> None:
    from vllm.model_executor.layers.activation import GeluAndMul

    GeluAndMul(approximate="tanh")(on_npu(TOKENS, HIDDEN))


def rotate(layer: torch.nn.Module) -> None:
    positions = torch.arange(TOKENS, device="npu")
    layer.to("npu")(positions, on_npu(TOKENS, HEADS * HEAD), on_npu(TOKENS, HEAD))


def call_rotary() -> None:
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    rotate(RotaryEmbedding(HEAD, HEAD, 64, 10000.0, True, torch.float32))


def call_llama3_rotary() -> None:
    from vllm.model_executor.layers.rotary_embedding.llama3_rope import Llama3RotaryEmbedding

    rotate(Llama3RotaryEmbedding(HEAD, HEAD, 64, 10000.0, True, torch.float32, 8.0, 1.0, 4.0, 32))


def call_linear_scaling_rotary() -> None:
    from vllm.model_executor.layers.rotary_embedding.linear_scaling_rope import LinearScalingRotaryEmbedding

    rotate(LinearScalingRotaryEmbedding(HEAD, HEAD, 64, 10000.0, True, 2.0, torch.float32))


def call_yarn_rotary() -> None:
    from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import YaRNScalingRotaryEmbedding

    rotate(YaRNScalingRotaryEmbedding(HEAD, HEAD, 64, 10000.0, True, 2.0, torch.float32))


def call_slot_mapping() -> None:
    from vllm.v1.worker.block_table import BlockTable

    table = BlockTable(128, 2, 4, 16, False, torch.device("npu"), 1)
    table.add_row([3], 0)
    table.add_row([1, 2], 1)
    table.commit_block_table(2)
    starts = torch.tensor([0, 2, 5], dtype=torch.int32, device="npu")
    table.compute_slot_mapping(2, starts, torch.tensor([7, 8, 127, 128, 129], device="npu"))
    assert table.slot_mapping.gpu[:6].tolist() == [391, 392, 255, 256, 257, -1]


def call_attention() -> None:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from vllm_ascend.attention.backend import AscendMetadata

    impl = AttentionBackendEnum.CUSTOM.get_class().get_impl_cls()(HEADS, HEAD, HEAD**-0.5, num_kv_heads=1)
    cache = torch.zeros(2, 1, 128, 2 * HEAD, device="npu", dtype=torch.bfloat16)
    query, key = on_npu(TOKENS, HEADS, HEAD).bfloat16(), on_npu(TOKENS, 1, HEAD).bfloat16()
    slots = torch.arange(TOKENS, device="npu")
    impl.do_kv_cache_update(None, key, key, cache, slots)
    table = torch.zeros(1, 1, dtype=torch.int32, device="npu")
    out = impl.forward(None, query, key, key, cache, AscendMetadata(TOKENS, [TOKENS], [TOKENS], table, slots), query.clone())
    # The first token sees only itself, so its output is its own value, for each head.
    assert torch.equal(out[0, 0], key[0, 0]) and torch.equal(out[0, 1], key[0, 0])


CALLS: dict[str, Callable[[], None]] = {
    "vllm.ir.ops.rms_norm": call_rms_norm,
    "vllm.ir.ops.fused_add_rms_norm": call_fused_add_rms_norm,
    "vllm.model_executor.layers.layernorm.GemmaRMSNorm": call_gemma_rms_norm,
    "vllm.model_executor.layers.activation.SiluAndMul": call_silu_and_mul,
    "vllm.model_executor.layers.activation.GeluAndMul": call_gelu_and_mul,
    "vllm.model_executor.layers.rotary_embedding.base.RotaryEmbedding": call_rotary,
    "vllm.model_executor.layers.rotary_embedding.llama3_rope.Llama3RotaryEmbedding": call_llama3_rotary,
    "vllm.model_executor.layers.rotary_embedding.linear_scaling_rope.LinearScalingRotaryEmbedding": call_linear_scaling_rotary,
    "vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope.YaRNScalingRotaryEmbedding": call_yarn_rotary,
    "vllm.v1.worker.block_table.ComputeSlotMappingKernel.kernel": call_slot_mapping,
    "vllm.v1.attention.backends.registry.AttentionBackendEnum.CUSTOM": call_attention,
}


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda row: row.target)
def test_target_and_implementation_exist(override: Override) -> None:
    assert resolve(override.target) is not None
    assert resolve(override.implementation) is not None


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda row: row.target)
def test_calling_the_target_launches_the_operator(override: Override) -> None:
    before = counters.snapshot()
    CALLS[override.target]()
    torch.npu.synchronize()
    launches = counters.difference(counters.snapshot(), before)["launches"]
    hit = [name for name, tally in launches.items() if tally["count"] and fnmatchcase(name, override.operator)]
    assert hit, f"{override.target} launched {sorted(launches)} and no {override.operator}"


def test_every_row_has_a_target_of_its_own() -> None:
    targets = [row.target for row in OVERRIDES]
    assert len(targets) == len(set(targets))
    assert set(CALLS) == set(targets)


def test_a_missing_target_is_an_error() -> None:
    with pytest.raises(AttributeError):
        resolve("vllm.model_executor.layers.activation.NoSuchLayer")
    with pytest.raises(ImportError):
        resolve("no_such_package.anything")


def test_entry_points_name_the_platform_and_the_overrides() -> None:
    groups = ("vllm.platform_plugins", "vllm.general_plugins")
    found = {group: e.value for group in groups for e in entry_points(group=group) if e.name == "ascend"}
    assert found == {
        "vllm.platform_plugins": "vllm_ascend:register",
        "vllm.general_plugins": "vllm_ascend:register_overrides",
    }


def test_a_layer_that_does_not_fit_takes_vllms_own_form() -> None:
    """A weight of another dtype than the input is not for the fused operator."""
    from vllm import ir

    provider = ir.ops.rms_norm.impls[IR_PROVIDER]
    x = on_npu(2, HIDDEN)
    assert provider.supports_args(x, on_npu(HIDDEN), 1e-6)
    assert not provider.supports_args(x, on_npu(HIDDEN).bfloat16(), 1e-6)
    assert not provider.supports_args(x, None, 1e-6)
    assert not provider.supports_args(x, on_npu(HIDDEN), 1e-6, HIDDEN // 2)
