"""Each row of the plugin's override registry.

Its target exists, and calling vLLM's own name launches the CANN operator that the row promises and
gives what vLLM's own form gives on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib.metadata import entry_points

import pytest
import torch
from cannsim import counters
from vllm import ir
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.layernorm import GemmaRMSNorm
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.linear_scaling_rope import (
    LinearScalingRotaryEmbedding,
)
from vllm.model_executor.layers.rotary_embedding.llama3_rope import Llama3RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import (
    YaRNScalingRotaryEmbedding,
)
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.worker.block_table import BlockTable
from vllm_ascend.attention.backend import AscendMetadata
from vllm_ascend.overrides import (
    OVERRIDES,
    Override,
    register_all,
    register_triton_kernels,
    resolve,
)
from vllm_ascend.platform import IR_PROVIDER

HIDDEN, HEAD, HEADS, TOKENS = 64, 32, 2, 5

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
"""What the NPU gave, and what it should have given."""

LAYERS = "vllm.model_executor.layers"


@pytest.fixture(autouse=True)
def engine_configuration() -> Iterator[None]:
    torch.manual_seed(0)
    register_all()
    register_triton_kernels()
    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("npu"))):
        yield


def same_layer(layer: torch.nn.Module, *inputs: torch.Tensor) -> Pairs:
    """The layer called twice on the NPU (so that a call that changes its weights is seen), and
    vLLM's own form on the CPU, before.
    """
    expected = layer.forward_native(*(x.clone() for x in inputs))
    layer.to("npu")
    layer(*(x.npu() for x in inputs))
    given = layer(*(x.npu() for x in inputs))
    if isinstance(given, torch.Tensor):
        return [(given, expected)]
    return list(zip(given, expected, strict=True))


def rotary(kind: type, *arguments: object) -> Callable[[], Pairs]:
    def call() -> Pairs:
        layer = kind(HEAD, HEAD, 64, 10000.0, True, *arguments)
        positions = torch.arange(3, 3 + TOKENS)
        return same_layer(
            layer, positions, torch.randn(TOKENS, HEADS * HEAD), torch.randn(TOKENS, HEAD)
        )

    return call


def ir_operator(name: str) -> Callable[[], Pairs]:
    def call() -> Pairs:
        operator = getattr(ir.ops, name)
        inputs = [torch.randn(TOKENS, HIDDEN) for _ in range(2 if "add" in name else 1)]
        arguments = [*inputs, torch.randn(HIDDEN)]
        expected = operator.impls["native"].impl_fn(*arguments, 1e-6)
        given = operator.impls[IR_PROVIDER].impl_fn(*(x.npu() for x in arguments), 1e-6)
        if isinstance(given, torch.Tensor):
            return [(given, expected)]
        return list(zip(given, expected, strict=True))

    return call


def gemma_norm() -> Pairs:
    layer = GemmaRMSNorm(HIDDEN)
    layer.weight.data.normal_()
    x, residual = torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN)
    return same_layer(layer, x, residual) + same_layer(layer.cpu(), x)


def slot_mapping() -> Pairs:
    table = BlockTable(128, 2, 4, 16, False, torch.device("npu"), 1)
    table.add_row([3], 0)
    table.add_row([1, 2], 1)
    table.commit_block_table(2)
    starts = torch.tensor([0, 2, 5], dtype=torch.int32, device="npu")
    table.compute_slot_mapping(2, starts, torch.tensor([7, 8, 127, 128, 129], device="npu"))
    expected = [3 * 128 + 7, 3 * 128 + 8, 128 + 127, 2 * 128, 2 * 128 + 1, -1]
    return [(table.slot_mapping.gpu[:6], torch.tensor(expected))]


def attention() -> Pairs:
    """Five causal tokens in the second block of a cache; two query heads share one key head."""
    backend = AttentionBackendEnum.CUSTOM.get_class()
    impl = backend.get_impl_cls()(HEADS, HEAD, HEAD**-0.5, num_kv_heads=1)
    cache = torch.zeros(2, 1, 128, 2 * HEAD, device="npu", dtype=torch.bfloat16)
    query = torch.randn(TOKENS, HEADS, HEAD).bfloat16()
    key, value = torch.randn(2, TOKENS, 1, HEAD).bfloat16()
    slots = torch.arange(128, 128 + TOKENS, device="npu")
    impl.do_kv_cache_update(None, key.npu(), value.npu(), cache, slots)
    table = torch.ones(1, 1, dtype=torch.int32, device="npu")
    metadata = AscendMetadata(TOKENS, [TOKENS], [TOKENS], table, slots)
    output = torch.empty_like(query).npu()
    given = impl.forward(None, query.npu(), key.npu(), value.npu(), cache, metadata, output)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.float().transpose(0, 1) for x in (query, key.expand_as(query), value.expand_as(query))),
        is_causal=True,
    )
    return [(given.float(), expected.transpose(0, 1))]


CALLS: dict[str, Callable[[], Pairs]] = {
    "vllm.ir.ops.rms_norm": ir_operator("rms_norm"),
    "vllm.ir.ops.fused_add_rms_norm": ir_operator("fused_add_rms_norm"),
    f"{LAYERS}.layernorm.GemmaRMSNorm": gemma_norm,
    f"{LAYERS}.activation.SiluAndMul": lambda: same_layer(SiluAndMul(), torch.randn(3, HIDDEN)),
    f"{LAYERS}.activation.GeluAndMul": lambda: same_layer(
        GeluAndMul(approximate="tanh"), torch.randn(3, HIDDEN)
    ),
    f"{LAYERS}.rotary_embedding.base.RotaryEmbedding": rotary(RotaryEmbedding, torch.float32),
    f"{LAYERS}.rotary_embedding.llama3_rope.Llama3RotaryEmbedding": rotary(
        Llama3RotaryEmbedding, torch.float32, 8.0, 1.0, 4.0, 32
    ),
    f"{LAYERS}.rotary_embedding.linear_scaling_rope.LinearScalingRotaryEmbedding": rotary(
        LinearScalingRotaryEmbedding, 2.0, torch.float32
    ),
    f"{LAYERS}.rotary_embedding.yarn_scaling_rope.YaRNScalingRotaryEmbedding": rotary(
        YaRNScalingRotaryEmbedding, 2.0, torch.float32
    ),
    "vllm.v1.worker.block_table.ComputeSlotMappingKernel.kernel": slot_mapping,
    "vllm.v1.attention.backends.registry.AttentionBackendEnum.CUSTOM": attention,
}


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda row: row.target)
def test_target_and_implementation_exist(override: Override) -> None:
    assert resolve(override.target) is not None
    assert resolve(override.implementation) is not None


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda row: row.target)
def test_calling_the_target_launches_the_operator_and_is_right(override: Override) -> None:
    before = counters.snapshot()
    pairs = CALLS[override.target]()
    torch.npu.synchronize()
    launches = counters.difference(counters.snapshot(), before)["launches"]
    launched = [name for name, tally in launches.items() if tally["count"]]
    assert any(fnmatchcase(name, override.operator) for name in launched), launched
    tolerance = 1e-2 if override.kind == "attention-backend" else 1e-5
    for given, expected in pairs:
        torch.testing.assert_close(
            given.cpu(), expected, atol=tolerance, rtol=tolerance, check_dtype=False
        )


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
    found = {
        group: e.value for group in groups for e in entry_points(group=group) if e.name == "ascend"
    }
    assert found == {
        "vllm.platform_plugins": "vllm_ascend:register",
        "vllm.general_plugins": "vllm_ascend:register_overrides",
    }


def test_a_layer_that_does_not_fit_takes_vllms_own_form() -> None:
    """A weight of another dtype than the input is not for the fused operator."""
    provider = ir.ops.rms_norm.impls[IR_PROVIDER]
    x, weight = torch.randn(2, HIDDEN, device="npu"), torch.randn(HIDDEN, device="npu")
    assert provider.supports_args(x, weight, 1e-6)
    assert not provider.supports_args(x, weight.bfloat16(), 1e-6)
    assert not provider.supports_args(x, None, 1e-6)
    assert not provider.supports_args(x, weight, 1e-6, HIDDEN // 2)
