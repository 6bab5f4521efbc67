"""Every class and operator of vLLM that this plugin implements for the NPU, each a row.

A row says what vLLM calls, where the implementation is, and the CANN operator that must be
launched when it is called; a test launches each and looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module


@dataclass(frozen=True)
class Override:
    """One thing of vLLM that is ours on an NPU.

    Attributes:
        kind: ``custom-op`` or ``layer`` (a class replaced by name), ``ir-op`` (a provider of an
            IR operator), ``torch-op`` (an operator that vLLM's compiled library would define),
            ``aten-op`` (an operator of torch's own, which torch-npu has otherwise),
            ``triton-kernel`` (a kernel replaced by name), ``attention-backend``, ``lora`` (what
            the platform names for a batch's adapters), ``sleep`` (a backend of sleep mode),
            ``linear-kernel`` (a product behind vLLM's quantised layers), ``quantization`` (what
            reads a quantised checkpoint) or ``loader`` (what reads checkpoints).
        target: the qualified name in vLLM; an attention backend that vLLM has no name for gets one.
            Of a linear kernel and of a quantisation it is the class that is subclassed.
        implementation: the qualified name here.
        operator: the CANN operator that a call launches.
        names: of a linear kernel its kind, of a quantisation the values of ``--quantization``, of
            a loader the load format.
    """

    kind: str
    target: str
    implementation: str
    operator: str
    names: tuple[str, ...] = ()


_ROTARY = "vllm.model_executor.layers.rotary_embedding"
_MOE = "vllm.model_executor.layers.fused_moe"
_SAMPLING = "vllm.v1.sample.rejection_sampler"
_DRAFTING = "vllm.v1.spec_decode.utils"
_OPS = "vllm_ascend.ops"
_KERNELS = "vllm.model_executor.kernels.linear"
_QUANTIZATION = "vllm.model_executor.layers.quantization"
_OURS = "vllm_ascend.quantization"

OVERRIDES: tuple[Override, ...] = (
    Override("ir-op", "vllm.ir.ops.rms_norm", f"{_OPS}.normalization.rms_norm", "aclnnRmsNorm"),
    Override(
        "ir-op",
        "vllm.ir.ops.fused_add_rms_norm",
        f"{_OPS}.normalization.fused_add_rms_norm",
        "aclnnAddRmsNorm",
    ),
    Override(
        "custom-op",
        "vllm.model_executor.layers.layernorm.GemmaRMSNorm",
        f"{_OPS}.normalization.AscendGemmaRMSNorm",
        "aclnnGemmaRmsNorm",
    ),
    Override(
        "custom-op",
        "vllm.model_executor.layers.activation.SiluAndMul",
        f"{_OPS}.activation.AscendSiluAndMul",
        "aclnnSwiGlu",
    ),
    Override(
        "custom-op",
        "vllm.model_executor.layers.activation.GeluAndMul",
        f"{_OPS}.activation.AscendGeluAndMul",
        "aclnnGeGluV3",
    ),
    Override("aten-op", "torch.ops.aten.gelu", f"{_OPS}.activation.gelu", "aclnnGeluV2"),
    Override(
        "custom-op",
        f"{_ROTARY}.base.RotaryEmbedding",
        f"{_OPS}.rotary_embedding.AscendRotaryEmbedding",
        "aclnnRopeWithSinCosCacheV2",
    ),
    Override(
        "custom-op",
        f"{_ROTARY}.llama3_rope.Llama3RotaryEmbedding",
        f"{_OPS}.rotary_embedding.AscendLlama3RotaryEmbedding",
        "aclnnRopeWithSinCosCacheV2",
    ),
    Override(
        "custom-op",
        f"{_ROTARY}.linear_scaling_rope.LinearScalingRotaryEmbedding",
        f"{_OPS}.rotary_embedding.AscendLinearScalingRotaryEmbedding",
        "aclnnRopeWithSinCosCacheV2",
    ),
    Override(
        "custom-op",
        f"{_ROTARY}.yarn_scaling_rope.YaRNScalingRotaryEmbedding",
        f"{_OPS}.rotary_embedding.AscendYaRNScalingRotaryEmbedding",
        "aclnnRopeWithSinCosCacheV2",
    ),
    Override(
        "custom-op",
        f"{_ROTARY}.mrope.MRotaryEmbedding",
        f"{_OPS}.rotary_embedding.AscendMRotaryEmbedding",
        "aclnnRopeWithSinCosCacheV2",
    ),
    Override(
        "custom-op",
        f"{_ROTARY}.common.ApplyRotaryEmb",
        f"{_OPS}.rotary_embedding.AscendApplyRotaryEmb",
        "aclnnRotaryPositionEmbedding*",
    ),
    Override(
        "custom-op",
        "vllm.model_executor.layers.attention.mm_encoder_attention.MMEncoderAttention",
        "vllm_ascend.attention.encoder.AscendMMEncoderAttention",
        "aclnnFusedInferAttentionScore*",
    ),
    Override(
        "torch-op",
        "torch.ops._moe_C.topk_softmax",
        f"{_OPS}.routing.topk_softmax",
        "aclnnMoeGatingTopK",
    ),
    Override(
        "torch-op",
        "torch.ops._moe_C.topk_sigmoid",
        f"{_OPS}.routing.topk_sigmoid",
        "aclnnMoeGatingTopK",
    ),
    Override(
        "custom-op",
        f"{_MOE}.unquantized_fused_moe_method.UnquantizedFusedMoEMethod",
        f"{_OPS}.experts.AscendUnquantizedFusedMoEMethod",
        "aclnnGroupedMatmulV5",
    ),
    Override(
        "triton-kernel",
        "vllm.v1.worker.block_table.ComputeSlotMappingKernel.kernel",
        f"{_OPS}.slot_mapping.compute_slot_mapping",
        "aclnnSearchSorted",
    ),
    Override(
        "triton-kernel",
        f"{_SAMPLING}.rejection_greedy_sample_kernel",
        f"{_OPS}.speculation.rejection_greedy_sample",
        "aclnnCumprod",
    ),
    Override(
        "triton-kernel",
        f"{_SAMPLING}.rejection_random_sample_kernel",
        f"{_OPS}.speculation.rejection_random_sample",
        "aclnnCumprod",
    ),
    Override(
        "triton-kernel",
        f"{_SAMPLING}.expand_kernel",
        f"{_OPS}.speculation.expand",
        "aclnnSearchSorted",
    ),
    Override(
        "triton-kernel",
        f"{_SAMPLING}.sample_recovered_tokens_kernel",
        f"{_OPS}.speculation.sample_recovered_tokens",
        "aclnnSearchSorted",
    ),
    Override(
        "triton-kernel",
        f"{_DRAFTING}.eagle_step_slot_mapping_metadata_kernel",
        f"{_OPS}.speculation.eagle_step_slot_mapping_metadata",
        "aclnnGather",
    ),
    Override(
        "triton-kernel",
        f"{_DRAFTING}.eagle_prepare_inputs_padded_kernel",
        f"{_OPS}.speculation.eagle_prepare_inputs_padded",
        "aclnnInplaceMaskedFillScalar",
    ),
    Override(
        "triton-kernel",
        f"{_DRAFTING}.eagle_prepare_next_token_padded_kernel",
        f"{_OPS}.speculation.eagle_prepare_next_token_padded",
        "aclnnGather",
    ),
    Override(
        "triton-kernel",
        f"{_DRAFTING}.copy_and_expand_eagle_inputs_kernel",
        f"{_OPS}.speculation.copy_and_expand_eagle_inputs",
        "aclnnSearchSorted",
    ),
    Override(
        "attention-backend",
        "vllm.v1.attention.backends.registry.AttentionBackendEnum.CUSTOM",
        "vllm_ascend.attention.backend.AscendAttentionBackend",
        "aclnnFusedInferAttentionScore*",
    ),
    Override(
        "attention-backend",
        "vllm.v1.attention.backends.registry.AttentionBackendEnum.ASCEND_LATENT",
        "vllm_ascend.attention.latent.AscendLatentBackend",
        "aclnnFusedInferAttentionScore*",
    ),
    Override(
        "attention-backend",
        "vllm.v1.attention.backends.registry.MambaAttentionBackendEnum.GDN_ATTN",
        "vllm_ascend.attention.delta.AscendDeltaBackend",
        "aclnnSearchSorted",
    ),
    Override(
        "layer",
        "vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn.QwenGatedDeltaNetAttention",
        "vllm_ascend.attention.delta.AscendQwenGatedDeltaNetAttention",
        "aclnnRecurrentGatedDeltaRule",
    ),
    Override(
        "attention-backend",
        "vllm.v1.attention.backends.registry.AttentionBackendEnum.ASCEND_SPARSE_LATENT",
        "vllm_ascend.attention.sparse.AscendSparseBackend",
        "aclnnSparseFlashAttention*",
    ),
    Override(
        "layer",
        "vllm.model_executor.layers.mla.MultiHeadLatentAttentionWrapper",
        "vllm_ascend.attention.sparse.AscendLatentAttentionWrapper",
        "aclnnLightningIndexer",
    ),
    Override(
        "lora",
        "vllm.lora.punica_wrapper.punica_base.PunicaWrapperBase",
        "vllm_ascend.lora.NPUPunicaWrapper",
        "aclnnMatmul",
    ),
    Override(
        "sleep",
        "vllm.device_allocator.sleep_mode_backend.SleepModeBackend",
        "vllm_ascend.sleep.AscendSleepBackend",
        "aclnnInplaceZero",
    ),
    Override(
        "linear-kernel",
        f"{_KERNELS}.Int8ScaledMMLinearKernel",
        f"{_OURS}.kernels.AscendInt8LinearKernel",
        "aclnnQuantMatmul*",
        ("int8",),
    ),
    Override(
        "linear-kernel",
        f"{_KERNELS}.MPLinearKernel",
        f"{_OURS}.kernels.AscendWeightOnlyLinearKernel",
        "aclnnWeightQuantBatchMatmul*",
        ("mp",),
    ),
    Override(
        "quantization",
        f"{_QUANTIZATION}.compressed_tensors.compressed_tensors.CompressedTensorsConfig",
        f"{_OURS}.configs.AscendCompressedTensorsConfig",
        "aclnnQuantMatmul*",
        ("compressed-tensors",),
    ),
    Override(
        "quantization",
        f"{_QUANTIZATION}.auto_awq.AutoAWQConfig",
        f"{_OURS}.configs.AscendAWQConfig",
        "aclnnWeightQuantBatchMatmul*",
        ("auto_awq", "awq", "awq_marlin"),
    ),
    Override(
        "quantization",
        f"{_QUANTIZATION}.auto_gptq.AutoGPTQConfig",
        f"{_OURS}.configs.AscendGPTQConfig",
        "aclnnWeightQuantBatchMatmul*",
        ("auto_gptq", "gptq", "gptq_marlin"),
    ),
    Override(
        "quantization",
        f"{_QUANTIZATION}.base_config.QuantizationConfig",
        f"{_OURS}.modelslim.ModelSlimConfig",
        "aclnnQuantMatmul*",
        ("ascend",),
    ),
    Override(
        "loader",
        "vllm.model_executor.model_loader.default_loader.DefaultModelLoader",
        "vllm_ascend.loading.CheckedLoader",
        "aclnnNe*",
        ("ascend",),
    ),
)


def resolve(qualified: str) -> object:
    """The object of a qualified name: the longest importable module, then attributes.

    Raises:
        ImportError: no part of the name is a module.
        AttributeError: the module has no such attribute.
    """
    parts = qualified.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name)
        return found
    raise ImportError(f"no module in {qualified}")


def _register_custom_op(override: Override) -> None:
    from vllm.model_executor.custom_op import CustomOp

    CustomOp.register_oot(resolve(override.implementation), name=override.target.rpartition(".")[2])  # type: ignore[arg-type]


def _register_layer(override: Override) -> None:
    from vllm.model_executor.custom_op import PluggableLayer

    name = override.target.rpartition(".")[2]
    PluggableLayer.register_oot(resolve(override.implementation), name=name)


def _register_attention_backend(override: Override) -> None:
    from vllm.v1.attention.backends import registry

    _, kind, name = override.target.rsplit(".", 2)
    registry.register_backend(
        getattr(getattr(registry, kind), name, name),
        override.implementation,
        is_mamba=kind == "MambaAttentionBackendEnum",
    )


def _register_ir_op(override: Override) -> None:
    resolve(override.implementation)  # registers itself by decorator


def _register_lora(override: Override) -> None:
    """vLLM asks the platform for the name when the first adapter is wanted."""


def _register_sleep(override: Override) -> None:
    from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory

    module, _, name = override.implementation.rpartition(".")
    SleepModeBackendFactory.register_backend("ascend", module, name)


def _register_torch_op(override: Override) -> None:
    from vllm_ascend.ops.routing import LIBRARY, SCHEMAS

    name = override.target.rpartition(".")[2]
    LIBRARY.define(name + SCHEMAS[name])
    LIBRARY.impl(name, resolve(override.implementation), "PrivateUse1")


def _register_aten_op(override: Override) -> None:
    from vllm_ascend.ops.activation import ATEN

    name = override.target.rpartition(".")[2]
    ATEN.impl(name, resolve(override.implementation), "PrivateUse1", allow_override=True)


def _register_linear_kernel(override: Override) -> None:
    from vllm.model_executor.kernels.linear import register_linear_kernel
    from vllm.platforms import PlatformEnum

    for kind in override.names:
        register_linear_kernel(resolve(override.implementation), PlatformEnum.OOT, kind)  # type: ignore[arg-type]


def _register_quantization(override: Override) -> None:
    from vllm.model_executor.layers.quantization import register_quantization_config

    for name in override.names:
        register_quantization_config(name)(resolve(override.implementation))


def _register_loader(override: Override) -> None:
    from vllm.model_executor.model_loader import register_model_loader

    for name in override.names:
        register_model_loader(name)(resolve(override.implementation))


def quantizations() -> list[str]:
    """The values of ``--quantization`` that an NPU serves."""
    return sorted({name for row in OVERRIDES if row.kind == "quantization" for name in row.names})


_REGISTER: dict[str, Callable[[Override], None]] = {
    "custom-op": _register_custom_op,
    "ir-op": _register_ir_op,
    "torch-op": _register_torch_op,
    "aten-op": _register_aten_op,
    "layer": _register_layer,
    "attention-backend": _register_attention_backend,
    "lora": _register_lora,
    "sleep": _register_sleep,
    "linear-kernel": _register_linear_kernel,
    "quantization": _register_quantization,
    "loader": _register_loader,
}


@cache
def register_all() -> None:
    """Registers every row but the Triton kernels, once a process.

    Raises:
        ImportError, AttributeError: a target is gone, so this version of vLLM does not fit.
    """
    for override in OVERRIDES:
        if override.kind != "triton-kernel":
            _REGISTER[override.kind](override)


@cache
def register_triton_kernels() -> None:
    """Registers the rows of Triton kernels, once a process, when the worker asks for them.

    Raises:
        ImportError, AttributeError, ValueError: a target is gone.
    """
    from vllm.triton_utils.dispatcher import register_kernels

    kernels = {
        row.target: resolve(row.implementation) for row in OVERRIDES if row.kind == "triton-kernel"
    }
    register_kernels(kernels)  # type: ignore[arg-type]
