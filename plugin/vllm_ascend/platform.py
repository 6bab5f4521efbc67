"""The NPU as a vLLM platform: what vLLM asks of a device, and the configuration it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.logger import init_logger
from vllm.platforms.interface import Platform, PlatformEnum

from vllm_ascend.chips import chip
from vllm_ascend.installation import Machine, require
from vllm_ascend.overrides import quantizations

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.config.kernel import IrOpPriorityConfig
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.backends.mla.prefill.base import MLAPrefillBackend
    from vllm.v1.attention.backends.mla.prefill.selector import MLAPrefillSelectorConfig
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.selector import AttentionSelectorConfig

logger = init_logger(__name__)

IR_PROVIDER = "ascend"
"""The name under which this plugin's implementations of vLLM's IR operators are registered."""


class UnsupportedOnNPU(ValueError):
    """A configuration that this plugin cannot serve; the message says what to change."""


class NPUPlatform(Platform):
    """Huawei Ascend NPU, through torch-npu."""

    _enum = PlatformEnum.OOT
    device_name = "npu"
    device_type = "npu"
    dispatch_key = "PrivateUse1"
    ray_device_key = "NPU"
    dist_backend = "hccl"
    device_control_env_var = "ASCEND_RT_VISIBLE_DEVICES"
    simple_compile_backend = "eager"
    supported_quantization: ClassVar[list[str]] = quantizations()

    @property
    def supported_dtypes(self) -> list[torch.dtype]:
        return list(chip().dtypes)

    # ---- configuration ----

    @classmethod
    def pre_register_and_update(cls, parser: FlexibleArgumentParser | None = None) -> None:
        if parser is None:  # an engine starts; a parser is also made to print help
            require(Machine(), logger.warning)

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        from vllm.config import CompilationMode, CUDAGraphMode

        from vllm_ascend import loading, sleep

        if vllm_config.model_config is not None:
            cls.check_if_supports_dtype(vllm_config.model_config.dtype)
            cls._find_quantization(vllm_config)
        parallel = vllm_config.parallel_config
        if parallel.worker_cls == "auto":
            parallel.worker_cls = "vllm_ascend.worker.NPUWorker"
        if parallel.world_size > 1:
            raise UnsupportedOnNPU(
                f"{parallel.world_size} NPUs were asked for (tensor or pipeline parallel), "
                "and this version of vllm-ascend serves on one. Set the parallel sizes to 1."
            )
        model = vllm_config.model_config
        if vllm_config.lora_config is not None and model.get_num_experts() > 0:
            raise UnsupportedOnNPU(
                f"LoRA is not implemented for mixtures of experts ({model.architecture}) on an "
                "NPU; merge the adapter into the weights, or leave out --enable-lora."
            )
        if model is not None and model.is_hybrid:
            cls._keep_states(vllm_config)
        if model is not None and model.sleep_mode_backend == "cumem":  # the default, for CUDA
            model.sleep_mode_backend = sleep.NAME
        if vllm_config.load_config.load_format == "auto":
            vllm_config.load_config.load_format = loading.FORMAT
        # Eager mode: operators are launched one by one, nothing is compiled or captured.
        compilation = vllm_config.compilation_config
        compilation.mode = CompilationMode.NONE
        compilation.cudagraph_mode = CUDAGraphMode.NONE
        compilation.pass_config.fuse_norm_quant = False
        compilation.pass_config.fuse_act_quant = False

    @classmethod
    def _keep_states(cls, vllm_config: VllmConfig) -> None:
        """What layers with a state instead of keys (gated delta nets) cannot do here yet."""
        cache, model = vllm_config.cache_config, vllm_config.model_config
        if vllm_config.speculative_config is not None:
            raise UnsupportedOnNPU(
                f"Speculative decoding of {model.architecture}, whose layers would have to keep a "
                "state for each draft, is not implemented on an NPU. Leave out "
                "--speculative-config."
            )
        if cache.enable_prefix_caching:
            logger.info(
                "Prefix caching is off: vLLM would copy the states of %s between blocks by a "
                "Triton kernel on addresses, for which an NPU has no operator.",
                model.architecture,
            )
            cache.enable_prefix_caching = False
            cache.mamba_cache_mode = "none"
            cache.mamba_block_size = model.max_model_len

    @classmethod
    def _find_quantization(cls, vllm_config: VllmConfig) -> None:
        """Sees a checkpoint of ModelSlim, whose config.json does not say that it is quantised."""
        from vllm.transformers_utils.repo_utils import file_or_path_exists

        from vllm_ascend.quantization.modelslim import DESCRIPTION, ModelSlimConfig

        model = vllm_config.model_config
        if model.quantization is None and file_or_path_exists(
            model.model, DESCRIPTION, model.revision
        ):
            model.quantization = ModelSlimConfig.get_name()
            vllm_config.quant_config = vllm_config.get_quantization_config(
                model, vllm_config.load_config
            )

    @classmethod
    def verify_quantization(cls, quant: str) -> None:
        from vllm_ascend.quantization.registry import UnsupportedQuantization, nearest

        if quant not in cls.supported_quantization:
            raise UnsupportedQuantization(
                f"The quantisation {quant!r} is not implemented on an NPU. "
                f"{nearest(quant, cls.supported_quantization)} "
                "Take a checkpoint in one of these, or one that is not quantised."
            )

    @classmethod
    def get_default_ir_op_priority(cls, vllm_config: VllmConfig) -> IrOpPriorityConfig:
        from vllm.config.kernel import IrOpPriorityConfig

        return IrOpPriorityConfig(
            rms_norm=[IR_PROVIDER, "native"],
            fused_add_rms_norm=[IR_PROVIDER, "native"],
            gelu_and_mul_sparse=["native"],
        )

    @classmethod
    def import_kernels(cls) -> None:
        """vLLM's compiled kernels are CUDA's; there are none to import."""

    @classmethod
    def import_ir_kernels(cls) -> None:
        from vllm_ascend.overrides import register_all

        register_all()

    @classmethod
    def register_triton_kernel_overrides(cls) -> None:
        from vllm_ascend.overrides import register_triton_kernels

        register_triton_kernels()

    @classmethod
    def get_attn_backend_cls(
        cls,
        selected_backend: AttentionBackendEnum | None,
        attn_selector_config: AttentionSelectorConfig,
        num_heads: int | None = None,
    ) -> str:
        from vllm.v1.attention.backend import AttentionBackend

        from vllm_ascend.attention.backend import AscendAttentionBackend

        backend: type[AttentionBackend] = AscendAttentionBackend
        if attn_selector_config.use_sparse and chip().has("npu_sparse_flash_attention"):
            from vllm_ascend.attention.sparse import AscendSparseBackend

            backend = AscendSparseBackend
        elif attn_selector_config.use_mla and chip().has("npu_fused_infer_attention_score"):
            from vllm_ascend.attention.latent import AscendLatentBackend

            backend = AscendLatentBackend
        reasons = backend.validate_configuration(
            device_capability=None,  # type: ignore[arg-type]  # an NPU has no compute capability
            **attn_selector_config._asdict(),
        )
        if reasons:
            raise UnsupportedOnNPU(
                f"Attention of this model cannot run on an NPU: {', '.join(reasons)} "
                f"({attn_selector_config})."
            )
        return f"{backend.__module__}.{backend.__qualname__}"

    @classmethod
    def get_mla_prefill_backend_cls(
        cls, mla_selector_config: MLAPrefillSelectorConfig
    ) -> type[MLAPrefillBackend]:
        from vllm_ascend.attention.latent import NoPrefillBackend

        return NoPrefillBackend

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "vllm_ascend.lora.NPUPunicaWrapper"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return "vllm_ascend.distributed.communicator.NPUCommunicator"

    # ---- the device ----

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        torch.npu.set_device(device)

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        torch.npu.manual_seed_all(seed)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        # Asked for a warning, before there is a device: that a dtype is replaced, for one.
        return cls._properties(device_id).name if torch.npu.is_initialized() else chip().series

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return cls._properties(device_id).total_memory

    @classmethod
    def _properties(cls, device_id: int) -> Any:
        # vLLM also asks in the process that will fork the engine, where it takes this error for
        # "unknown" and goes on with defaults. An answer would initialise the NPU there, and no
        # forked child could use it.
        if not torch.npu.is_initialized():
            raise NotImplementedError(
                "the NPU's properties are known once this process has called torch.npu.init"
            )
        return torch.npu.get_device_properties(device_id)

    @classmethod
    def get_current_memory_usage(cls, device: torch.types.Device | None = None) -> float:
        torch.npu.reset_peak_memory_stats(device)
        return torch.npu.max_memory_allocated(device)

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return cls._properties(device_id).cube_core_num

    @classmethod
    def check_if_supports_dtype(cls, dtype: torch.dtype) -> None:
        if dtype not in chip().dtypes:
            names = ", ".join(str(known).removeprefix("torch.") for known in chip().dtypes)
            raise UnsupportedOnNPU(
                f"{chip().series} does not compute in {str(dtype).removeprefix('torch.')}. "
                f"Choose another with --dtype: {names}."
            )

    # ---- what the platform can do ----

    def is_sleep_mode_available(self) -> bool:
        return True

    @classmethod
    def opaque_attention_op(cls) -> bool:
        return True

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        return True

    @classmethod
    def check_runner_kv_caches_multi_layer(cls) -> None:
        """Layers of one index (self and cross attention) are bound one after the other."""
