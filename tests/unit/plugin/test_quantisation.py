"""Quantised layers of every format and scheme, and what is refused with which words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch_npu
from safetensors.torch import save_file
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.kernels.linear import MPLinearLayerConfig
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import (
    FusedMoEConfig,
    FusedMoEParallelConfig,
    RoutingMethodType,
)
from vllm.scalar_type import scalar_types
from vllm_ascend import chips
from vllm_ascend.attention.backend import AscendAttentionImpl, AscendMetadata
from vllm_ascend.attention.quantised import Codes, QuantisedCacheImpl
from vllm_ascend.overrides import quantizations, register_all
from vllm_ascend.platform import NPUPlatform
from vllm_ascend.quantization import registry
from vllm_ascend.quantization.caches import CompressedTensorsCacheMethod
from vllm_ascend.quantization.configs import (
    AscendAWQConfig,
    AscendCompressedTensorsConfig,
    AscendGPTQConfig,
)
from vllm_ascend.quantization.kernels import AscendInt8LinearKernel, AscendWeightOnlyLinearKernel
from vllm_ascend.quantization.modelslim import DESCRIPTION, ModelSlimConfig, W8A8Linear
from vllm_ascend.quantization.registry import UnsupportedQuantization

from matrix.schema import Quantisation
from tests.unit.plugin.layers import LENGTH, PREFIX, WIDTH, linear, pair

HALVES = (torch.float16, torch.bfloat16)

FORMS = [
    Quantisation(format="modelslim", scheme="W8A8_DYNAMIC"),
    Quantisation(format="modelslim", scheme="W8A8"),
    Quantisation(format="modelslim", scheme="W8A16"),
    Quantisation(format="modelslim", scheme="W4A8_DYNAMIC", group_size=32),
    Quantisation(format="compressed-tensors", scheme="W8A8_DYNAMIC"),
    Quantisation(format="compressed-tensors", scheme="W8A8"),
    Quantisation(format="compressed-tensors", scheme="W8A16"),
    Quantisation(format="compressed-tensors", scheme="W4A16", group_size=32),
    Quantisation(format="awq", scheme="W4A16", group_size=64),
    Quantisation(format="gptq", scheme="W4A16", group_size=32),
    Quantisation(format="gptq", scheme="W8A16"),
]


@pytest.fixture(autouse=True)
def engine_configuration() -> Iterator[None]:
    torch.manual_seed(0)
    register_all()
    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("npu"))):
        yield


@pytest.fixture
def on_310p(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch_npu._C, "_npu_get_soc_version", lambda: 202)
    chips.chip.cache_clear()
    yield
    chips.chip.cache_clear()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("how", FORMS, ids=lambda how: f"{how.format}-{how.scheme}")
def test_a_layer_multiplies_by_what_its_codes_stand_for(
    how: Quantisation, dtype: torch.dtype
) -> None:
    """Inputs of 8 bits are off by up to half a step; whole inputs by the rounding of the dtype."""
    given, expected = pair(how, dtype)
    tolerance = 2e-2 if how.scheme.startswith("W8A8") else {HALVES[0]: 2e-3, HALVES[1]: 1e-2}[dtype]
    torch.testing.assert_close(given, expected, atol=tolerance, rtol=0)
    assert not torch.equal(given, expected)


def test_rounding_of_a_static_scale_is_taken_out_again() -> None:
    """bfloat16 keeps 8 bits of the factor; the product must not be off by its error."""
    layer, meant = linear(FORMS[1], torch.bfloat16)
    x = torch.randn(512, LENGTH).clamp(-3, 4).bfloat16()
    given, expected = layer(x.npu()).float().cpu(), x.float() @ meant.t()
    slope = (given * expected).sum() / expected.square().sum()
    assert abs(slope - 1) < 1e-3


def test_a_bias_is_added_once() -> None:
    for how in FORMS:
        layer, _ = linear(how, torch.bfloat16)
        x, bias = torch.randn(3, LENGTH).bfloat16().npu(), torch.full((WIDTH,), 64.0).bfloat16()
        added = layer.quant_method.apply(layer, x, bias.npu()) - layer(x)
        # ModelSlim's static files have the layer's own bias within quant_bias.
        within = how.format == "modelslim" and how.scheme == "W8A8"
        assert abs(added.float().mean() - (0 if within else 64)) < 0.5, how


def test_what_was_loaded_does_not_stay_beside_what_is_used() -> None:
    layer, _ = linear(Quantisation(format="awq", scheme="W4A16", group_size=64), torch.float16)
    assert {name for name, _ in layer.named_parameters()} == {
        "qweight",
        "product_scale",
        "product_offset",
    }
    assert layer.qweight is layer.product.weight
    assert layer.qweight.numel() == LENGTH * WIDTH // 8


def test_weights_of_two_to_a_byte_are_refused() -> None:
    method = registry.find_scheme("W4A8_DYNAMIC", registry.LINEAR, PREFIX)(
        ModelSlimConfig({"version": "1.0.0"})
    )
    with pytest.raises(UnsupportedQuantization, match=r"version '1\.0\.0'.*two to a byte"):
        method.add_scales(None, WIDTH, LENGTH, 1)


def test_groups_that_do_not_divide_the_inputs_are_refused() -> None:
    method = registry.find_scheme("W4A8_DYNAMIC", registry.LINEAR, PREFIX)(ModelSlimConfig({}))
    with pytest.raises(UnsupportedQuantization, match=r"group_size 256.*the 128 inputs"):
        method.add_scales(lambda *_, **__: None, WIDTH, LENGTH, 1)


def test_mx_formats_are_of_the_950_alone() -> None:
    how = Quantisation(format="modelslim", scheme="W8A8_MXFP8")
    with pytest.raises(UnsupportedQuantization, match=r"needs npu_dynamic_mx_quant.*910B"):
        linear(how, torch.float16)
    program = """
import torch
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm_ascend.overrides import register_all
from matrix.schema import Quantisation
from tests.unit.plugin.layers import pair
register_all()
with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("npu"))):
    for scheme in ("W8A8_MXFP8", "W4A4_MXFP4"):
        given, expected = pair(Quantisation(format="modelslim", scheme=scheme), torch.bfloat16)
        print(scheme, float((given - expected).abs().max()))
"""
    simulated = [sys.executable, "-m", "cannsim", "run", "--chip", "Ascend950PR_9589", "--"]
    ran = subprocess.run(
        [*simulated, sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    errors = dict(line.split() for line in ran.stdout.splitlines()[-2:])
    assert 0 < float(errors["W8A8_MXFP8"]) < 0.1, "inputs have four significant bits"
    assert 0 < float(errors["W4A4_MXFP4"]) < 0.4, "inputs have two significant bits"


def test_a_scheme_that_is_taken_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="W8A8 for linear layers is W8A8Linear already"):
        registry.register_scheme("W8A8", registry.LINEAR)(W8A8Linear)


def test_an_unknown_scheme_names_the_layer_and_the_nearest() -> None:
    config = ModelSlimConfig({f"{PREFIX}.weight": "W8A8_DYNAMC"})
    with pytest.raises(UnsupportedQuantization, match=r"down_proj.*mean 'W8A8_DYNAMIC'"):
        registry.find_scheme(config.scheme_of(PREFIX), registry.LINEAR, PREFIX)


def test_a_layer_that_the_description_lacks_is_named_with_the_nearest() -> None:
    config = ModelSlimConfig({f"{PREFIX}.weight": "W8A8"})
    with pytest.raises(UnsupportedQuantization, match=r"json has no .*0\.mlp\.up_proj.*down_proj"):
        config.scheme_of(PREFIX.replace("down", "up"))


def test_a_cache_of_another_kind_is_refused() -> None:
    for quantised in ("FLOAT", "C8"):
        assert ModelSlimConfig.from_config({"kv_cache_type": quantised}).description
    with pytest.raises(UnsupportedQuantization, match=r"kv_cache_type: 'C4'.*C8 \(int8\)"):
        ModelSlimConfig.from_config({"kv_cache_type": "C4"})
    with pytest.raises(UnsupportedQuantization, match="fa_quant_type: 'FAQuant'"):
        ModelSlimConfig.from_config({"fa_quant_type": "FAQuant"})


def test_a_layer_whose_cache_is_quantised_needs_both_parts(tmp_path: Path) -> None:
    keys, values = (f"model.layers.0.self_attn.{part}_proj" for part in "kv")
    config = ModelSlimConfig(
        {f"{stem}.{name}": "C8" for stem in (keys, values) for name in ("weight", "kv_cache_scale")}
    )
    tensors = {f"{stem}.weight": torch.zeros(2) for stem in (keys, values)}
    tensors |= {f"{keys}.kv_cache_{part}": torch.zeros(2) for part in ("scale", "offset")}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedQuantization, match=r"v_proj\.weight, and not .*kv_cache_scale"):
        config.maybe_update_config(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("self_attn.k_proj.kv_cache_scale", "self_attn.attn.k_cache_scale"),
        ("self_attn.v_proj.kv_cache_offset", "self_attn.attn.v_cache_offset"),
        ("self_attn.v_proj.weight_scale", "self_attn.v_proj.weight_scale"),
    ],
)
def test_scales_of_a_cache_are_found_by_their_names(name: str, parameter: str) -> None:
    assert ModelSlimConfig.get_cache_scale_mapper().map_name(name) == parameter


def test_a_cache_of_integers_is_not_taken_for_one_of_float8() -> None:
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor"}
    read = AscendCompressedTensorsConfig.from_config
    made = read({"format": "int-quantized", "kv_cache_scheme": {**scheme, "dynamic": False}})
    assert made.kv_cache_scheme is None
    assert made.int8_cache["num_bits"] == 8
    with pytest.raises(UnsupportedQuantization, match=r"'num_bits': 4.*'num_bits': 8"):
        CompressedTensorsCacheMethod(made, {**scheme, "num_bits": 4, "dynamic": False})
    with pytest.raises(UnsupportedQuantization, match="strategy 'channel'"):
        CompressedTensorsCacheMethod(made, {**scheme, "strategy": "channel", "dynamic": False})


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("dtype", HALVES)
def test_attention_over_int8_is_that_over_what_it_stands_for(
    dtype: torch.dtype, window: int | None
) -> None:
    """Requests with one row, with several, and with keys in two blocks, in one step."""
    heads, key_heads, width = 4, 2, 32
    plain = AscendAttentionImpl(heads, width, 0.2, key_heads, sliding_window=window)
    impl = QuantisedCacheImpl.instead_of(plain)
    channels = key_heads * width
    impl.codes = (
        Codes(torch.rand(channels) / 40 + 0.01, torch.randint(-20, 20, (channels,)), dtype),
        Codes(torch.rand(channels) / 40 + 0.01, torch.randint(-20, 20, (channels,)), dtype),
    )
    holder = torch.nn.Module()
    for part, codes in zip("kv", impl.codes, strict=True):
        codes.settle(holder, part)
    holder.npu()
    cache = torch.zeros(5, 128, key_heads, 2 * width, dtype=torch.int8, device="npu")
    cache = cache.transpose(1, 2)
    table = torch.tensor([[1, 0], [4, 2], [3, 0]], dtype=torch.int32)
    lengths, rows = [5, 150, 3], [1, 2, 3]
    keys, values = (torch.randn(sum(lengths), key_heads, width).to(dtype) for _ in "kv")
    slots = torch.cat(
        [
            table[i, torch.arange(n) // 128] * 128 + torch.arange(n) % 128
            for i, n in enumerate(lengths)
        ]
    )
    impl.do_kv_cache_update(None, keys.npu(), values.npu(), cache, slots.npu())
    query = torch.randn(sum(rows), heads, width).to(dtype)
    counts = torch.tensor(lengths, dtype=torch.int32).npu()
    metadata = AscendMetadata(sum(rows), [1, 3, 6], lengths, counts, table.npu(), slots.npu())
    given = impl.forward(
        None, query.npu(), None, None, cache, metadata, torch.empty_like(query).npu()
    )
    means = [
        codes.restore(codes.quantise(x.npu()).flatten(1)).cpu().float().view(x.shape)
        for codes, x in zip(impl.codes, (keys, values), strict=True)
    ]
    assert (means[0] - keys).abs().mean() < 0.05  # what lies outside the range is cut
    ends = torch.tensor(lengths).cumsum(0)
    first = 0
    for count, length, end in zip(rows, lengths, ends, strict=True):
        own, other = torch.arange(length - count, length)[:, None], torch.arange(length)
        sees = (other <= own) & (own - other < (window or length))
        expected = torch.nn.functional.scaled_dot_product_attention(
            query[first : first + count].float().transpose(0, 1),
            *(
                x[end - length : end].repeat_interleave(heads // key_heads, 1).transpose(0, 1)
                for x in means
            ),
            attn_mask=sees,
            scale=0.2,
        )
        torch.testing.assert_close(
            given[first : first + count].cpu().float(),
            expected.transpose(0, 1),
            atol=2e-2,
            rtol=2e-2,
        )
        first += count


def test_parts_of_one_layer_have_one_scheme() -> None:
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    config = ModelSlimConfig(dict(zip(names, ("W8A8", "W8A8", "FLOAT"), strict=True)))
    config.packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    with pytest.raises(UnsupportedQuantization, match=r"qkv_proj.*one layer in vLLM.*FLOAT"):
        config.scheme_of("model.layers.0.self_attn.qkv_proj")


def test_offsets_of_weights_are_refused_where_the_product_has_none() -> None:
    with pytest.raises(UnsupportedQuantization, match="weight_offset other than zero"):
        linear(FORMS[0], torch.float16, {"weight_offset": torch.ones(WIDTH, 1)})


def test_parts_that_read_one_input_have_one_scale() -> None:
    layer = SimpleNamespace(
        input_scale=torch.tensor([0.1, 0.2]), input_offset=torch.zeros(2), weight=None
    )
    with pytest.raises(UnsupportedQuantization, match=r"different input_scale.*0\.2"):
        W8A8Linear(ModelSlimConfig({})).product(layer)


@pytest.mark.parametrize(
    ("tensors", "config", "missing"),
    [
        (
            {f"{PREFIX}.qweight": torch.int32, f"{PREFIX}.scale": torch.float16},
            AscendAWQConfig(4, 32, True, False),
            rf"{PREFIX}\.qweight, and not {PREFIX}\.scales.*nearest name is {PREFIX}\.scale\.",
        ),
        (
            {f"{PREFIX}.qweight": torch.int32, f"{PREFIX}.scales": torch.float16},
            AscendGPTQConfig(4, 32, False, True, False, {}, {}),
            rf"not {PREFIX}\.qzeros",
        ),
        (
            {f"{PREFIX}.weight": torch.int8, f"{PREFIX}.weight_offset": torch.float32},
            ModelSlimConfig({f"{PREFIX}.weight": "W8A8_DYNAMIC"}),
            rf"not {PREFIX}\.weight_scale, .*nearest name is {PREFIX}\.weight_offset",
        ),
    ],
    ids=["awq", "gptq", "modelslim"],
)
def test_missing_scales_are_named_before_anything_is_loaded(
    tmp_path: Path, tensors: dict[str, torch.dtype], config: ModelSlimConfig, missing: str
) -> None:
    whole = {name: torch.zeros(1, dtype=dtype) for name, dtype in tensors.items()}
    save_file(whole, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedQuantization, match=rf"{tmp_path} has .*{missing}"):
        config.maybe_update_config(str(tmp_path))


def test_a_float_layer_needs_no_scales(tmp_path: Path) -> None:
    save_file({f"{PREFIX}.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    ModelSlimConfig({f"{PREFIX}.weight": "FLOAT"}).maybe_update_config(str(tmp_path))


def test_an_unknown_quantisation_is_refused_with_the_nearest() -> None:
    for name in quantizations():
        NPUPlatform.verify_quantization(name)
    with pytest.raises(UnsupportedQuantization, match=r"'fbgemm_fp8'.*awq.*compressed-tensors"):
        NPUPlatform.verify_quantization("fbgemm_fp8")
    with pytest.raises(UnsupportedQuantization, match=r"'auto-awq'.*mean 'auto_awq'"):
        NPUPlatform.verify_quantization("auto-awq")


def test_a_checkpoint_of_modelslim_is_seen_by_its_description(tmp_path: Path) -> None:
    found = SimpleNamespace(quantization=None, model=str(tmp_path), revision=None)
    config = SimpleNamespace(
        model_config=found,
        load_config=None,
        quant_config=None,
        get_quantization_config=lambda model, load: model.quantization,
    )
    NPUPlatform._find_quantization(config)
    assert found.quantization is None
    (tmp_path / DESCRIPTION).write_text("{}")
    NPUPlatform._find_quantization(config)
    assert (found.quantization, config.quant_config) == ("ascend", "ascend")


def mixed(**changes: object) -> MPLinearLayerConfig:
    shape = (LENGTH, WIDTH)
    given = {
        "full_weight_shape": shape,
        "partition_weight_shape": shape,
        "weight_type": scalar_types.uint4b8,
        "act_type": torch.float16,
        "group_size": 32,
        "zero_points": False,
    }
    return MPLinearLayerConfig(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_type": scalar_types.uint3b4}, "uint3"),
        ({"zero_points": True}, "zero points: True"),
        ({"act_type": torch.float32}, "float32"),
        ({"group_size": 48}, "groups of 48 among 128"),
        ({"partition_weight_shape": (LENGTH, 60)}, "60 outputs"),
    ],
)
def test_weights_that_no_product_takes_say_why(changes: dict, words: str) -> None:
    assert AscendWeightOnlyLinearKernel.can_implement(mixed()) == (True, None)
    can, reason = AscendWeightOnlyLinearKernel.can_implement(mixed(**changes))
    assert not can
    assert words in reason


@pytest.mark.usefixtures("on_310p")
def test_what_the_300i_lacks_is_refused_by_name() -> None:
    int8 = {"weight_type": scalar_types.uint8b128}
    kernel = AscendWeightOnlyLinearKernel
    assert "no products with int4" in kernel.can_implement(mixed())[1]
    assert "one scale a channel" in kernel.can_implement(mixed(**int8))[1]
    assert "bfloat16" in kernel.can_implement(mixed(**int8, act_type=torch.bfloat16))[1]
    assert kernel.can_implement(mixed(**int8, group_size=-1)) == (True, None)
    dynamic = SimpleNamespace(is_static_input_scheme=False, input_symmetric=True)
    assert "npu_dynamic_quant" in AscendInt8LinearKernel.can_implement(dynamic)[1]
    with pytest.raises(UnsupportedQuantization, match=r"needs npu_dynamic_quant.*310P"):
        linear(FORMS[0], torch.float16)


def experts(
    dtype: torch.dtype, scheme: str = "W8A8_DYNAMIC"
) -> tuple[object, torch.nn.Module, dict[str, torch.Tensor]]:
    """A method with a layer of four experts of it, and what their weights stand for."""
    config = FusedMoEConfig(
        num_experts=4,
        experts_per_token=2,
        hidden_dim=LENGTH,
        intermediate_size=WIDTH,
        num_local_experts=4,
        num_logical_experts=4,
        activation=MoEActivation.SILU,
        device="npu",
        routing_method=RoutingMethodType.Renormalize,
        moe_parallel_config=FusedMoEParallelConfig.make_no_parallel(),
        in_dtype=dtype,
    )
    find = registry.find_scheme(scheme, registry.EXPERTS, "model.layers.0.mlp.experts")
    method, layer = find(ModelSlimConfig({"group_size": 32}), config), torch.nn.Module()
    method.create_weights(layer, 4, LENGTH, WIDTH, dtype)
    layer.activation, layer.expert_map = MoEActivation.SILU, None
    layer.apply_router_weight_on_input = False
    meant = {}
    for name in ("w13", "w2"):
        least, most = (-8, 8) if scheme.startswith("W4") else (-127, 128)
        codes = layer.get_parameter(f"{name}_weight").data.random_(least, most)
        scale = layer.get_parameter(f"{name}_weight_scale").data.uniform_(0.5, 1.5).div_(1000)
        if scheme == "W8A16":
            codes = codes + layer.get_parameter(f"{name}_weight_offset").data.random_(-9, 10)
        if scheme.startswith("W4"):
            second = layer.get_parameter(f"{name}_weight_scale_second").data.uniform_(0.5, 1.5)
            scale = (scale * second).repeat_interleave(32, -1)
        meant[name] = codes.float() * scale
    return method, layer.npu(), meant


@pytest.mark.parametrize("scheme", registry.schemes(registry.EXPERTS))
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_experts_multiply_by_what_their_codes_stand_for(dtype: torch.dtype, scheme: str) -> None:
    method, layer, meant = experts(dtype, scheme)
    method.process_weights_after_loading(layer)
    x, weights = torch.randn(5, LENGTH).to(dtype), torch.rand(5, 2)
    ids = torch.tensor([[0, 1], [3, 1], [1, 0], [3, 0], [1, 3]], dtype=torch.int32)
    given = method.apply(layer, x.npu(), weights.npu(), ids.npu(), None, None).float().cpu()
    expected = torch.zeros(5, LENGTH)
    for token, (chosen, shares) in enumerate(zip(ids.tolist(), weights, strict=True)):
        for expert, share in zip(chosen, shares, strict=True):
            gate, value = (meant["w13"][expert] @ x[token].float()).chunk(2)
            hidden = torch.nn.functional.silu(gate) * value
            expected[token] += share * (meant["w2"][expert] @ hidden)
    greatest = expected.abs().max()
    torch.testing.assert_close(given / greatest, expected / greatest, atol=2e-2, rtol=0)


def test_offsets_of_experts_are_refused() -> None:
    method, layer, _ = experts(torch.float16)
    layer.w2_weight_offset.data[0] = 1
    with pytest.raises(UnsupportedQuantization, match="w2_weight_offset other than zero"):
        method.process_weights_after_loading(layer)


def test_experts_of_a_format_that_has_none_are_refused() -> None:
    layer = object.__new__(RoutedExperts)
    config = AscendAWQConfig(4, 32, True, False)
    with pytest.raises(UnsupportedQuantization, match=r"mlp\.experts: experts quantised as auto_a"):
        config.get_quant_method(layer, "model.layers.0.mlp.experts")
