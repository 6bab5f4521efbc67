"""Each row of the plugin's override registry.

Its target exists, and calling vLLM's own name launches the CANN operator that the row promises and
gives what vLLM's own form gives on the CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from cannsim import counters
from vllm import ir
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.config.load import LoadConfig
from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory
from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import (
    FusedMoEConfig,
    FusedMoEParallelConfig,
    RoutingMethodType,
)
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.layers.layernorm import GemmaRMSNorm
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.common import ApplyRotaryEmb
from vllm.model_executor.layers.rotary_embedding.linear_scaling_rope import (
    LinearScalingRotaryEmbedding,
)
from vllm.model_executor.layers.rotary_embedding.llama3_rope import Llama3RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import (
    YaRNScalingRotaryEmbedding,
)
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.v1.attention.backend import AttentionType, CommonAttentionMetadata
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.ops.vit_attn_wrappers import torch_sdpa_wrapper
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.worker.block_table import BlockTable
from vllm_ascend.attention import capped
from vllm_ascend.attention.backend import (
    AscendAttentionImpl,
    AscendMetadata,
    AscendMetadataBuilder,
)
from vllm_ascend.attention.latent import AscendLatentMetadata
from vllm_ascend.chips import Chip
from vllm_ascend.loading import WrongCheckpoint
from vllm_ascend.model_runner import NPUModelRunner
from vllm_ascend.ops import rotary_embedding
from vllm_ascend.ops.rotary_embedding import NEIGHBOURS
from vllm_ascend.overrides import (
    OVERRIDES,
    Override,
    register_all,
    register_triton_kernels,
    resolve,
)
from vllm_ascend.platform import IR_PROVIDER

from matrix.schema import Quantisation
from tests.unit.plugin import drafting, states
from tests.unit.plugin.layers import one_card, pair

HIDDEN, HEAD, HEADS, TOKENS = 64, 32, 2, 5

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
"""What the NPU gave, and what it should have given."""

LAYERS = "vllm.model_executor.layers"
KERNELS = "vllm.model_executor.kernels.linear"

TOLERANCE = {"attention-backend": 1e-2, "layer": 3e-2, "linear-kernel": 2e-2, "quantization": 2e-2}
"""By kind, where operators take 16 bits or fewer; 1e-5 for all others."""


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
        query, key = torch.randn(TOKENS, HEADS * HEAD), torch.randn(TOKENS, HEAD)
        by_head = (query.view(TOKENS, HEADS, HEAD), key.view(TOKENS, 1, HEAD))
        pairs = same_layer(layer, positions, query, key)
        return pairs + same_layer(layer.cpu(), positions, *by_head)

    return call


def in_three_dimensions() -> Pairs:
    """Text, and images with the sections one after the other and interleaved."""
    pairs: Pairs = []
    for sections, interleaved in (([16, 24, 24], False), ([24, 20, 20], True)):
        size = 2 * sum(sections)
        layer = MRotaryEmbedding(
            size, size, 64, 10000.0, True, torch.float32, sections, interleaved
        )
        query, key = torch.randn(TOKENS, 2 * size), torch.randn(TOKENS, size)
        for positions in (torch.arange(TOKENS), torch.randint(0, 64, (3, TOKENS))):
            pairs += same_layer(layer.cpu(), positions, query, key)
    return pairs


def of_patches() -> Pairs:
    pairs: Pairs = []
    angles = torch.randn(TOKENS, HEAD // 2)
    for neox in (True, False):
        for shape in ((TOKENS, HEADS, HEAD), (2, TOKENS, HEADS, HEAD)):
            layer = ApplyRotaryEmb(enforce_enable=True, is_neox_style=neox)
            pairs += same_layer(layer, torch.randn(shape), angles.cos(), angles.sin())
    return pairs


def encoder_attention() -> Pairs:
    """Sequences of one batch, with borders on the host or on the device, and a batch of equals."""
    pairs: Pairs = []
    borders = torch.tensor([0, 2, TOKENS], dtype=torch.int32)
    for size in (HEAD, 72, 80):  # none of which is a width that the operator takes
        layer = MMEncoderAttention(HEADS, size)
        one = [torch.randn(1, TOKENS, HEADS, size).half() for _ in range(3)]
        several = [torch.randn(3, TOKENS, HEADS * size).half() for _ in range(3)]
        for inputs, ends in ((one, borders), (one, borders.npu()), (several, None)):
            plain = [x.float() for x in inputs]
            heads = layer.view_qkv_to_4d(*plain, len(plain[0]), *2 * [plain[0].shape[1]])
            own = torch_sdpa_wrapper(*heads, layer.scale, ends if ends is None else ends.cpu())
            expected = own.reshape(plain[0].shape)
            given = layer(*(x.npu() for x in inputs), ends)
            assert given.is_contiguous()
            pairs.append((given, expected))
    return pairs


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


def counts(*numbers: int) -> torch.Tensor:
    """Keys of each request, where attention out of parts wants them."""
    return torch.tensor(numbers, dtype=torch.int32, device="npu")


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
    metadata = AscendMetadata(TOKENS, [TOKENS], [TOKENS], counts(TOKENS), table, slots)
    output = torch.empty_like(query).npu()
    given = impl.forward(None, query.npu(), key.npu(), value.npu(), cache, metadata, output)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.float().transpose(0, 1) for x in (query, key.expand_as(query), value.expand_as(query))),
        is_causal=True,
    )
    return [(given.float(), expected.transpose(0, 1))]


def latent_attention() -> Pairs:
    """Two requests over a cache of latents: a prefill of three tokens and a decode of one."""
    rank, size, heads = 512, 64, 2
    impl = object.__new__(AttentionBackendEnum.ASCEND_LATENT.get_class().get_impl_cls())
    impl.kv_lora_rank, impl.qk_rope_head_dim, impl.num_heads, impl.scale = rank, size, heads, 0.1
    cache = torch.zeros(3, 128, rank + size, device="npu", dtype=torch.bfloat16)
    latent, rotated = torch.randn(5, rank).bfloat16(), torch.randn(5, 1, size).bfloat16()
    slots = torch.tensor([128, 129, 130, 256, 257], device="npu")
    impl.do_kv_cache_update(latent.npu(), rotated.npu(), cache, slots, "auto", None)
    query = torch.randn(4, heads, rank).bfloat16(), torch.randn(4, heads, size).bfloat16()
    table = torch.tensor([[1], [2]], dtype=torch.int32, device="npu")
    metadata = AscendLatentMetadata(
        num_tokens=4,
        query_ends=[3, 4],
        seq_lens=[3, 2],
        key_counts=counts(3, 2),
        block_table=table,
        slot_mapping=slots,
        num_actual_tokens=4,
        num_decodes=2,
        num_decode_tokens=4,
    )
    given, _ = impl.forward_mqa(tuple(x.npu() for x in query), cache, metadata, None)
    whole, keys = torch.cat(query, -1).float(), torch.cat([latent, rotated[:, 0]], -1).float()
    sees = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
    scores = torch.einsum("thd,kd->htk", whole, keys).mul(impl.scale).where(sees, -torch.inf)
    return [(given.float(), torch.einsum("htk,kd->thd", scores.softmax(-1), latent.float()))]


def gating(name: str, *extra: object) -> Callable[[], Pairs]:
    """Scores with and without bias, made to add up to one or not; experts come in any order."""

    def call() -> Pairs:
        pairs: Pairs = []
        logits = torch.randn(TOKENS, 8)
        scores = logits.softmax(-1) if name == "topk_softmax" else logits.sigmoid()
        for bias in (None, torch.randn(8)):
            for renormalise in (False, True):
                weights = torch.empty(TOKENS, 3, device="npu")
                experts = torch.empty(TOKENS, 3, dtype=torch.int32, device="npu")
                arguments = (logits.npu(), renormalise, None if bias is None else bias.npu())
                operator = getattr(torch.ops._moe_C, name)
                operator(weights, experts, experts.clone(), *arguments, *extra, None)
                chosen = (scores if bias is None else scores + bias).topk(3).indices
                expected = scores.gather(1, chosen)
                if renormalise:
                    expected = expected / expected.sum(-1, keepdim=True)
                spread = torch.zeros(TOKENS, 8).scatter(1, chosen, expected)
                found = torch.zeros(TOKENS, 8).scatter(1, experts.cpu().long(), weights.cpu())
                pairs.append((found, spread))
        return pairs

    return call


def exact_gelu() -> Pairs:
    """Each form as it is asked for: they are 5e-4 apart, and torch-npu's own gives one for both."""
    x = torch.linspace(-4, 4, 257)
    return [
        (
            torch.nn.functional.gelu(x.npu(), approximate=form),
            torch.nn.functional.gelu(x, approximate=form),
        )
        for form in ("none", "tanh")
    ]


def experts_of(
    activation: MoEActivation, *, bias: bool
) -> tuple[UnquantizedFusedMoEMethod, object]:
    """The method that vLLM's name gives, and a layer with four experts of its weights."""
    config = FusedMoEConfig(
        num_experts=4,
        experts_per_token=2,
        hidden_dim=HIDDEN,
        intermediate_size=HEAD,
        num_local_experts=4,
        num_logical_experts=4,
        activation=activation,
        device="npu",
        routing_method=RoutingMethodType.Renormalize,
        moe_parallel_config=FusedMoEParallelConfig.make_no_parallel(),
        in_dtype=torch.float32,
        has_bias=bias,
    )
    layer = SimpleNamespace(
        activation=activation,
        expert_map=None,
        apply_router_weight_on_input=False,
        w13_weight=torch.randn(4, 2 * HEAD, HIDDEN),
        w2_weight=torch.randn(4, HIDDEN, HEAD),
    )
    if bias:
        layer.w13_bias, layer.w2_bias = torch.randn(4, 2 * HEAD), torch.randn(4, HIDDEN)
    return UnquantizedFusedMoEMethod(config), layer


def clamped(x: torch.Tensor) -> torch.Tensor:
    """gpt-oss: gates and values alternate, both clamped; values get one added."""
    gate, value = x[..., ::2].clamp(max=7), x[..., 1::2].clamp(-7, 7)
    return gate * (1.702 * gate).sigmoid() * (value + 1)


def experts() -> Pairs:
    pairs: Pairs = []
    forms = ((MoEActivation.SILU, False), (MoEActivation.GELU_TANH, False))
    plain = {
        MoEActivation.SILU: torch.nn.functional.silu,
        MoEActivation.GELU_TANH: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }
    for activation, bias in (*forms, (MoEActivation.SWIGLUOAI, True)):
        method, layer = experts_of(activation, bias=bias)
        x, weights = torch.randn(TOKENS, HIDDEN), torch.rand(TOKENS, 2)
        ids = torch.tensor([[0, 1], [3, 1], [1, 0], [3, 0], [1, 3]])  # nobody takes expert 2
        expected = torch.zeros(TOKENS, HIDDEN)
        for token, choice in itertools.product(range(TOKENS), range(2)):
            expert = ids[token, choice]
            hidden = layer.w13_weight[expert] @ x[token]
            hidden = hidden + layer.w13_bias[expert] if bias else hidden
            if activation in plain:
                hidden = plain[activation](hidden[:HEAD]) * hidden[HEAD:]
            else:
                hidden = clamped(hidden)
            result = layer.w2_weight[expert] @ hidden
            result = result + layer.w2_bias[expert] if bias else result
            expected[token] += weights[token, choice] * result
        placed = SimpleNamespace(
            **{k: v.npu() if isinstance(v, torch.Tensor) else v for k, v in vars(layer).items()}
        )
        given = method.apply(placed, x.npu(), weights.npu(), ids.int().npu(), None, None)
        pairs.append((given / expected.abs().max(), expected / expected.abs().max()))
    return pairs


def adapters() -> Pairs:
    """Tokens of two adapters and of none, over all slots; products, logits and embeddings."""
    wrapper = get_punica_wrapper(16, 8, "npu")
    mapping = SimpleNamespace(
        index_mapping=(7, 7, 0, 5, 0), prompt_mapping=(7, 0, 5), is_prefill=True
    )
    wrapper.update_metadata(mapping, [5, 7], 2, 64)
    own, sampled = [1, 1, -1, 0, -1], [1, -1, 0]
    a, b = torch.randn(2, 2, 1, 4, HIDDEN), [torch.randn(2, 1, n, 4) for n in (6, 10)]

    def plain(x: torch.Tensor, indices: list[int], part: int) -> torch.Tensor:
        rows = torch.zeros(len(x), b[part].shape[2])
        for number, index in enumerate(indices):
            if index >= 0:
                rows[number] = 2.0 * b[part][index, 0] @ (a[part, index, 0] @ x[number])
        return rows

    x, y = torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, 16)
    given = y.npu()
    weights = tuple(w.npu() for w in a), tuple(w.npu() for w in b)
    wrapper.add_lora_linear(given, x.npu(), *weights, 2.0, (6, 10))
    pairs = [(given / 100, (y + torch.cat([plain(x, own, 0), plain(x, own, 1)], 1)) / 100)]
    logits = torch.randn(3, 12)  # two columns more than the adapters have
    given = logits.npu()
    wrapper.add_lora_logits(given, x[:3].npu(), weights[0][1], weights[1][1], 2.0)
    pairs.append((given[:, :10] / 100, (logits[:, :10] + plain(x[:3], sampled, 1)) / 100))
    pairs.append((given[:, 10:], logits[:, 10:]))
    looked_up, given = torch.randn(TOKENS, 4), y[:, :6].contiguous().npu()
    wrapper.add_lora_embedding(given, looked_up.npu(), weights[1][0])
    rows = [
        b[0][i, 0] @ r if i >= 0 else torch.zeros(6) for i, r in zip(own, looked_up, strict=True)
    ]
    return [*pairs, (given, y[:, :6] + torch.stack(rows))]


def sleeping() -> Pairs:
    """Weights and a shared view of them come back as they were, and caches empty."""
    model = torch.nn.Linear(64, 64, device="npu")
    view, cache = model.weight.detach()[3:], torch.ones(4096, device="npu")
    kept = model.weight.detach().cpu(), model.bias.detach().cpu()
    worker = SimpleNamespace(
        model_runner=SimpleNamespace(get_model=lambda: model, kv_caches=[cache[:8], cache]),
        get_draft_model=lambda: None,
    )
    backend = SleepModeBackendFactory.get_backend_class("ascend")()
    backend.worker = worker
    awake = torch.npu.memory_allocated()
    backend.suspend(1)
    assert backend.state() == "SUSPENDED"
    assert awake - torch.npu.memory_allocated() >= 4 * (64 * 64 + 4096)
    backend.resume(["weights"])
    assert (backend.state(), cache.untyped_storage().nbytes()) == ("SUSPENDED", 0)
    backend.resume()
    assert (backend.state(), torch.npu.memory_allocated()) == ("RUNNING", awake)
    return [
        (model.weight, kept[0]),
        (model.bias, kept[1]),
        (view, kept[0][3:]),
        (cache, cache.cpu() * 0),
    ]


def loading() -> Pairs:
    """vLLM's loader, as the platform asks for it; of a weight that is in no file it tells."""
    torch.manual_seed(0)
    with one_card(), torch.device("npu"):
        layers = [ReplicatedLinear(8, 4, bias=False, prefix=str(n)) for n in range(2)]
    weights = {f"{n}.weight": torch.randn(4, 8) for n in range(2)}
    model = torch.nn.ModuleList(layers)
    model.load_weights = lambda given: {
        (model.get_parameter(name).data.copy_(tensor), name)[1] for name, tensor in given
    }
    config = SimpleNamespace(
        model="a/model",
        architecture="AModel",
        quantization=None,
        is_moe=False,
        multimodal_config=None,
    )
    loader = get_model_loader(LoadConfig(load_format="ascend"))

    def load(*names: str) -> None:
        files = ((name, weights[name]) for name in names)
        with patch.object(DefaultModelLoader, "get_all_weights", lambda *_: files):
            loader.load_weights(model, config)

    load("0.weight", "1.weight")
    pairs = [(layer.weight, weights[f"{n}.weight"]) for n, layer in enumerate(layers)]
    given = [(weight.detach().clone(), expected) for weight, expected in pairs]
    with pytest.raises(WrongCheckpoint, match=r"a/model cannot be.*no file has the whole of 1\.we"):
        load("0.weight")
    weights["1.weight"] = torch.randn(3, 8)
    with pytest.raises(WrongCheckpoint, match=r"1\.weight of shape \(3, 8\) does not fit"):
        load("0.weight", "1.weight")
    return given


def quantised(form: str, scheme: str, group: int | None = None) -> Callable[[], Pairs]:
    """A linear layer whose method the configuration chooses, and the product behind it."""
    how = Quantisation.model_validate({"format": form, "scheme": scheme, "group_size": group})
    return lambda: [pair(how, torch.float16)]


CALLS: dict[str, Callable[[], Pairs]] = {
    **drafting.CALLS,
    **states.CALLS,
    "vllm.lora.punica_wrapper.punica_base.PunicaWrapperBase": adapters,
    "vllm.device_allocator.sleep_mode_backend.SleepModeBackend": sleeping,
    "vllm.model_executor.model_loader.default_loader.DefaultModelLoader": loading,
    f"{KERNELS}.Int8ScaledMMLinearKernel": quantised("compressed-tensors", "W8A8"),
    f"{KERNELS}.MPLinearKernel": quantised("compressed-tensors", "W4A16", 32),
    f"{LAYERS}.quantization.compressed_tensors.compressed_tensors.CompressedTensorsConfig": (
        quantised("compressed-tensors", "W8A8_DYNAMIC")
    ),
    f"{LAYERS}.quantization.auto_awq.AutoAWQConfig": quantised("awq", "W4A16", 32),
    f"{LAYERS}.quantization.auto_gptq.AutoGPTQConfig": quantised("gptq", "W4A16", 32),
    f"{LAYERS}.quantization.base_config.QuantizationConfig": quantised("modelslim", "W8A8_DYNAMIC"),
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
    f"{LAYERS}.rotary_embedding.mrope.MRotaryEmbedding": in_three_dimensions,
    f"{LAYERS}.rotary_embedding.common.ApplyRotaryEmb": of_patches,
    f"{LAYERS}.attention.mm_encoder_attention.MMEncoderAttention": encoder_attention,
    f"{LAYERS}.rotary_embedding.yarn_scaling_rope.YaRNScalingRotaryEmbedding": rotary(
        YaRNScalingRotaryEmbedding, 2.0, torch.float32
    ),
    "vllm.v1.worker.block_table.ComputeSlotMappingKernel.kernel": slot_mapping,
    "vllm.v1.attention.backends.registry.AttentionBackendEnum.CUSTOM": attention,
    "vllm.v1.attention.backends.registry.AttentionBackendEnum.ASCEND_LATENT": latent_attention,
    "torch.ops.aten.gelu": exact_gelu,
    "torch.ops._moe_C.topk_softmax": gating("topk_softmax"),
    "torch.ops._moe_C.topk_sigmoid": gating("topk_sigmoid", 1.0),
    f"{LAYERS}.fused_moe.unquantized_fused_moe_method.UnquantizedFusedMoEMethod": experts,
}


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda row: row.target)
def test_target_and_implementation_exist(override: Override) -> None:
    assert resolve(override.target) is not None
    assert resolve(override.implementation) is not None


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda row: row.target)
def test_calling_the_target_launches_the_operator_and_is_right(override: Override) -> None:
    pairs: Pairs = []
    launched = launched_by(lambda: pairs.extend(CALLS[override.target]()))
    assert any(fnmatchcase(name, override.operator) for name in launched), launched
    sixteen_bits = override.target.endswith(".MMEncoderAttention")
    tolerance = 1e-2 if sixteen_bits else TOLERANCE.get(override.kind, 1e-5)
    for given, expected in pairs:
        torch.testing.assert_close(
            given.cpu(), expected, atol=tolerance, rtol=tolerance, check_dtype=False
        )


def launched_by(call: Callable[[], object]) -> list[str]:
    """The operators that a call launches."""
    before = counters.snapshot()
    call()
    torch.npu.synchronize()
    launches = counters.difference(counters.snapshot(), before)["launches"]
    return [name for name, tally in launches.items() if tally["count"]]


@pytest.mark.parametrize("lacking", [set(), {"npu_mrope"}, {"npu_mrope", NEIGHBOURS}], ids=len)
@pytest.mark.parametrize("neox", [True, False], ids=["half", "interleave"])
@pytest.mark.parametrize(("size", "width"), [(80, 80), (80, 32), (64, 64), (64, 16)], ids=str)
def test_text_is_turned_by_the_operator_that_the_chip_has_for_its_heads(
    size: int, width: int, neox: bool, lacking: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads that are not whole blocks, parts of heads, and chips without one or both operators."""
    own = Chip("for a test", range(0), lacks=frozenset(lacking))
    monkeypatch.setattr(rotary_embedding, "chip", lambda: own)
    layer = RotaryEmbedding(size, width, 64, 10000.0, neox, torch.float16)
    positions = torch.arange(3, 3 + TOKENS)
    query = torch.randn(TOKENS, HEADS * size).half()
    key = torch.randn(TOKENS, size).half()
    expected = layer.forward_native(positions, query.float(), key.float())
    layer.to("npu")
    given: list[torch.Tensor] = []
    names = launched_by(lambda: given.extend(layer(positions.npu(), query.npu(), key.npu())))
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one.cpu().float(), other, atol=1e-2, rtol=1e-2)
    at_once = size == 64 and width == 64 and "npu_mrope" not in lacking
    apart = not at_once and (neox or NEIGHBOURS not in lacking)
    assert any(name.startswith("aclnnRopeWithSinCosCache") for name in names) == at_once
    assert any(name.startswith("aclnnRotaryPositionEmbedding") for name in names) == apart


def test_every_row_has_a_target_of_its_own() -> None:
    targets = [row.target for row in OVERRIDES]
    assert len(targets) == len(set(targets))
    assert set(CALLS) == set(targets)


def test_blocks_that_attention_is_given_are_zeroed() -> None:
    """Logical blocks of two kernel blocks each; layers of states are left alone."""
    cache = torch.full((6, 128, 1, 8), 7.0, device="npu").transpose(1, 2)
    runner = object.__new__(NPUModelRunner)
    runner.device = torch.device("npu")
    runner.kv_cache_config = SimpleNamespace(num_blocks=3)
    layers = {"attention": SimpleNamespace(kv_cache=cache)}
    runner.compilation_config = SimpleNamespace(static_forward_context=layers)
    spec = FullAttentionSpec(block_size=256, num_kv_heads=1, head_size=4, dtype=torch.float32)
    states = SimpleNamespace(kv_cache_spec=None, layer_names=["states"])
    group = SimpleNamespace(kv_cache_spec=spec, layer_names=["attention"])
    runner._kv_cache_spec_attn_group_iterator = lambda: iter([states, group])
    runner._init_kv_zero_meta()
    runner._zero_block_ids([])
    runner._zero_block_ids([2, 0])
    assert cache.amax((1, 2, 3)).tolist() == [0, 0, 7, 7, 0, 0]


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


def test_an_activation_of_experts_that_is_not_there_is_named() -> None:
    method, layer = experts_of(MoEActivation.RELU2, bias=False)
    with pytest.raises(NotImplementedError, match=r"'relu2'.*silu"):
        method.apply(layer, torch.randn(1, HIDDEN), None, None, None, None)


@pytest.mark.parametrize("window", [None, 2])
def test_an_encoder_sees_all_keys_of_its_own_request(window: int | None) -> None:
    impl = AscendAttentionImpl(
        HEADS, HEAD, 0.2, sliding_window=window, attn_type=AttentionType.ENCODER_ONLY
    )
    query, key, value = torch.randn(3, TOKENS, HEADS, HEAD).bfloat16()
    empty = torch.empty(0, device="npu")
    lengths = [2, TOKENS - 2]
    metadata = AscendMetadata(
        TOKENS, [2, TOKENS], lengths, counts(*lengths), empty, empty, causal=False
    )
    output = torch.empty_like(query).npu()
    given = impl.forward(None, query.npu(), key.npu(), value.npu(), empty, metadata, output)
    place = torch.arange(TOKENS)
    sees = (place[:, None] < 2) == (place[None] < 2)
    if window is not None:
        sees &= (place[:, None] - place[None]).abs() < window
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.float().transpose(0, 1) for x in (query, key, value)), attn_mask=sees, scale=0.2
    )
    torch.testing.assert_close(given.cpu().float(), expected.transpose(0, 1), atol=1e-2, rtol=1e-2)


def test_a_block_holds_its_own_keys_and_values_where_others_hold_states() -> None:
    """A prompt in the blocks 3 and 1 of five: the other blocks' memory, page by page, stays."""
    impl = AscendAttentionImpl(HEADS, HEAD, 0.2)
    impl.together = True
    memory = torch.full((5, 128 * HEADS * 2 * HEAD), 7.0, device="npu", dtype=torch.bfloat16)
    cache = memory.view(5, 128, HEADS, 2 * HEAD).transpose(1, 2)
    query, key, value = torch.randn(3, 130, HEADS, HEAD).bfloat16()
    table = torch.tensor([[3, 1]], dtype=torch.int32)
    slots = torch.cat([torch.arange(3 * 128, 4 * 128), torch.arange(128, 130)]).npu()
    impl.do_kv_cache_update(None, key.npu(), value.npu(), cache, slots)
    metadata = AscendMetadata(130, [130], [130], counts(130), table.npu() * 2, slots)
    output = torch.empty_like(query).npu()
    given = impl.forward(None, query.npu(), key.npu(), value.npu(), cache, metadata, output)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.float().transpose(0, 1) for x in (query, key, value)), is_causal=True, scale=0.2
    )
    torch.testing.assert_close(given.cpu().float(), expected.transpose(0, 1), atol=1e-2, rtol=1e-2)
    assert memory[[0, 2, 4]].eq(7).all()
    assert not memory[[3]].eq(7).any()


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("rows", [[1, 1, 1], [4, 1, 2]], ids=["decode", "mixed"])
@pytest.mark.parametrize("at_once", [1, capped.SCORES], ids=["in pieces", "together"])
def test_capped_scores_pass_through_tanh_before_the_softmax(
    window: int | None, rows: list[int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three requests of 130, 1 and 6 keys; two query heads for each of two key heads."""
    monkeypatch.setattr(capped, "SCORES", at_once)
    lengths, scale, cap = [130, rows[1], 6], 0.9, 2.0
    keys, values = torch.randn(2, 4 * 128, 2, HEAD)
    query = torch.randn(sum(rows), 4, HEAD)
    table = torch.tensor([[3, 1], [2, 0], [0, 0]], dtype=torch.int32)
    ends = [sum(rows[: i + 1]) for i in range(3)]
    metadata = AscendMetadata(
        ends[-1], ends, lengths, counts(*lengths), table.npu(), torch.empty(0, device="npu")
    )
    output = torch.empty_like(query).npu()
    capped.CappedAttention(scale, cap, window)(
        query.npu(), tuple(x.view(4, 128, 2, HEAD).npu() for x in (keys, values)), metadata, output
    )
    for i, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        slots = (table[i].repeat_interleave(128) * 128 + torch.arange(128).repeat(2))[:length]
        k, v = (x[slots].repeat_interleave(2, 1) for x in (keys, values))
        for row in range(rows[i]):
            at = end - rows[i] + row
            place = length - rows[i] + row
            sees = slice(max(0, place + 1 - window) if window else 0, place + 1)
            scores = torch.einsum("hd,khd->hk", query[at] * scale, k[sees])
            weights = (cap * torch.tanh(scores / cap)).softmax(-1)
            expected = torch.einsum("hk,khd->hd", weights, v[sees])
            torch.testing.assert_close(output[at].cpu(), expected, atol=1e-4, rtol=1e-4)


def test_capped_decode_waits_for_nothing() -> None:
    query, cache = torch.randn(2, 2, HEAD).npu(), torch.randn(2, 128, 2, HEAD).npu()
    table = torch.zeros(2, 1, dtype=torch.int32, device="npu")
    metadata = AscendMetadata(2, [1, 2], [5, 9], counts(5, 9), table, table)
    output = torch.empty_like(query)
    torch.npu.synchronize()
    before = counters.snapshot()
    capped.CappedAttention(0.1, 5.0)(query, (cache, cache), metadata, output)
    after = counters.snapshot()
    for kind in ("copies", "synchronizations"):
        assert after[kind] == before[kind], f"{kind} between host and device"


@pytest.mark.parametrize("sink", [-20.0, 1.0])
def test_a_sink_takes_its_share_of_the_weights(sink: float) -> None:
    """One query over one key: the value times the key's share beside the sink."""
    impl = AscendAttentionImpl(HEADS, 64, 0.0, sinks=torch.full((HEADS,), sink).bfloat16().npu())
    query, key, value = torch.randn(3, 1, HEADS, 64).bfloat16()
    cache = torch.zeros(1, 128, HEADS, 128, device="npu", dtype=torch.bfloat16).transpose(1, 2)
    slots = torch.zeros(1, dtype=torch.int64, device="npu")
    impl.do_kv_cache_update(None, key.npu(), value.npu(), cache, slots)
    table = torch.zeros(1, 1, dtype=torch.int32, device="npu")
    metadata = AscendMetadata(1, [1], [1], counts(1), table, slots)
    output = torch.empty_like(query).npu()
    given = impl.forward(None, query.npu(), key.npu(), value.npu(), cache, metadata, output)
    share = torch.tensor([0.0, sink]).softmax(-1)[0]
    torch.testing.assert_close(given.cpu().float(), value.float() * share, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("computed", [0, 3])
def test_cross_attention_sees_the_whole_encoder(computed: int) -> None:
    """The decoder's place does not matter: every row sees all of the encoder's keys."""
    impl = AscendAttentionImpl(HEADS, HEAD, 0.2, attn_type=AttentionType.ENCODER_DECODER)
    keys, values = torch.randn(2, 6, HEADS, HEAD).bfloat16()
    cache = torch.zeros(1, 128, HEADS, 2 * HEAD, device="npu", dtype=torch.bfloat16)
    cache = cache.transpose(1, 2)  # heads are the last but one in memory
    slots = torch.arange(6, device="npu")
    impl.do_kv_cache_update(None, keys.npu(), values.npu(), cache, slots)
    rows = 1 if computed else 4
    query = torch.randn(rows, HEADS, HEAD).bfloat16()
    table = torch.zeros(1, 1, dtype=torch.int32, device="npu")
    metadata = AscendMetadata(rows, [rows], [6], counts(6), table, slots, causal=False)
    given = impl.forward(
        None, query.npu(), None, None, cache, metadata, torch.empty_like(query).npu()
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.float().transpose(0, 1) for x in (query, keys, values)), scale=0.2
    )
    torch.testing.assert_close(given.cpu().float(), expected.transpose(0, 1), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("host_knows", [True, False])
def test_lengths_come_from_the_device_while_drafts_are_in_flight(host_knows: bool) -> None:
    """The host counts every draft as accepted; while drafting it is never asked."""
    common = CommonAttentionMetadata(
        query_start_loc=torch.tensor([0, 3, 4]).int().npu(),
        query_start_loc_cpu=torch.tensor([0, 3, 4]).int(),
        seq_lens=torch.tensor([10, 20]).int().npu(),
        num_reqs=2,
        num_actual_tokens=4,
        max_query_len=3,
        max_seq_len=23,
        block_table_tensor=torch.zeros(2, 1).int().npu(),
        slot_mapping=torch.zeros(4).long().npu(),
        seq_lens_cpu_upper_bound=torch.tensor([13, 20]).int(),
    )
    builder = object.__new__(AscendMetadataBuilder)
    builder.host_knows, builder.together = host_knows, False
    assert builder.build(0, common).seq_lens == ([13, 20] if host_knows else [10, 20])
    assert builder.build_for_drafting(common, 1).seq_lens == [10, 20]
