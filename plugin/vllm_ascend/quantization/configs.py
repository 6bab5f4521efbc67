"""vLLM's configurations of quantised checkpoints, with NPU products behind them."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.linear import register_weight_loader_v2_supported_method
from vllm.model_executor.layers.quantization.auto_awq import (
    AutoAWQConfig,
    AutoAWQLinearMethod,
    AutoAWQMarlinLinearMethod,
)
from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig, AutoGPTQLinearMethod
from vllm.model_executor.layers.quantization.base_config import (
    QuantizationConfig,
    QuantizeMethodBase,
)
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
    CompressedTensorsConfig,
)
from vllm.model_executor.layers.quantization.utils.gptq_utils import get_linear_quant_method

from vllm_ascend.quantization.caches import CompressedTensorsCacheMethod
from vllm_ascend.quantization.checkpoints import require_companions
from vllm_ascend.quantization.registry import UnsupportedQuantization


class _OnNPU(QuantizationConfig):
    """What the three have in common: complete checkpoints, and no quantised experts yet."""

    scales: dict[str, tuple[str, ...]]
    """Last part of a quantised weight's name to its companions'."""

    def maybe_update_config(
        self, model_name: str, hf_config: Any = None, revision: str | None = None
    ) -> None:
        def companions(name: str, dtype: str) -> tuple[str, ...]:
            return self.scales.get(name.rpartition(".")[2], ()) if dtype.startswith("I") else ()

        require_companions(model_name, revision, companions)
        super().maybe_update_config(model_name, hf_config=hf_config, revision=revision)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        if isinstance(layer, RoutedExperts):
            raise UnsupportedQuantization(
                f"{prefix}: experts quantised as {self.get_name()} are not implemented on an NPU; "
                "W8A8_DYNAMIC of ModelSlim is."
            )
        return super().get_quant_method(layer, prefix)  # type: ignore[safe-super]


class AscendCompressedTensorsConfig(_OnNPU, CompressedTensorsConfig):
    """Linear layers find their products among the registered kernels."""

    scales = {"weight": ("weight_scale",), "weight_packed": ("weight_scale",)}  # noqa: RUF012

    int8_cache: dict[str, Any] | None = None
    """The scheme of a cache of integers, which vLLM itself would take for one of float8."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AscendCompressedTensorsConfig:
        scheme = config.get("kv_cache_scheme")
        if scheme is None or scheme.get("type") != "int":
            return super().from_config(config)
        made = super().from_config({**config, "kv_cache_scheme": None})
        made.int8_cache = scheme
        return made

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        if isinstance(layer, Attention) and self.int8_cache is not None:
            return CompressedTensorsCacheMethod(self, self.int8_cache)
        return super().get_quant_method(layer, prefix)


@register_weight_loader_v2_supported_method
class AscendAWQLinearMethod(AutoAWQMarlinLinearMethod):
    """vLLM's method that asks the registered kernels, without its check for a CUDA device."""

    def __init__(self, quant_config: AutoAWQConfig) -> None:
        self.quant_config = quant_config
        self.quant_type = quant_config.quant_type
        self.input_dtype = None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        # On the host: torch-npu's shift does not broadcast its left operand.
        for name in ("qweight", "qzeros"):
            parameter = getattr(layer, name)
            parameter.data = parameter.data.cpu()
        super().process_weights_after_loading(layer)


class AscendAWQConfig(_OnNPU, AutoAWQConfig):
    """AWQ: groups of 4-bit weights with zero points."""

    scales = {"qweight": ("scales", "qzeros")}  # noqa: RUF012

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        method = super().get_quant_method(layer, prefix)
        return AscendAWQLinearMethod(self) if isinstance(method, AutoAWQLinearMethod) else method


@register_weight_loader_v2_supported_method
class AscendGPTQLinearMethod(AutoGPTQLinearMethod):
    """vLLM's method, without its check for a CUDA device."""

    def __init__(self, quant_config: AutoGPTQConfig) -> None:
        self.quant_config = quant_config
        self.quant_type = quant_config.quant_type
        self.input_dtype = None


class AscendGPTQConfig(_OnNPU, AutoGPTQConfig):
    """GPTQ: groups of symmetric 4-bit or 8-bit weights."""

    scales = {"qweight": ("scales", "qzeros")}  # noqa: RUF012

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        if isinstance(layer, RoutedExperts):
            return super().get_quant_method(layer, prefix)
        return get_linear_quant_method(self, layer, prefix, AscendGPTQLinearMethod)
