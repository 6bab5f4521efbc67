"""ModelSlim's checkpoints: a description that gives each tensor's scheme, and the schemes' layers.

The names of tensors and their meaning are those that msModelSlim writes for vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.layers.linear import (
    LinearBase,
    LinearMethodBase,
    UnquantizedLinearMethod,
)
from vllm.model_executor.layers.quantization.base_config import (
    QuantizationConfig,
    QuantizeMethodBase,
)
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.parameter import (
    ChannelQuantScaleParameter,
    GroupQuantScaleParameter,
    ModelWeightParameter,
    PerTensorScaleParameter,
)

from vllm_ascend.quantization import experts  # noqa: F401  # registers its schemes
from vllm_ascend.quantization.caches import C8, FROM_MODELSLIM, STEM
from vllm_ascend.quantization.checkpoints import DESCRIPTION, group_size, require_companions
from vllm_ascend.quantization.products import (
    MX_BLOCK,
    DynamicProduct,
    MxProduct,
    StaticProduct,
    WeightOnlyProduct,
    require,
)
from vllm_ascend.quantization.registry import (
    ATTENTION,
    EXPERTS,
    LINEAR,
    UnsupportedQuantization,
    find_scheme,
    nearest,
    register_scheme,
)

FLOAT = "FLOAT"
"""The scheme of what is not quantised."""

CACHES = {"kv_quant_type": (C8,), "kv_cache_type": (C8,), "fa_quant_type": ()}
"""Keys of the description under which caches, or attention itself, are quantised, and how they may
be.
"""


class ModelSlimConfig(QuantizationConfig):
    """The description of one checkpoint.

    Args:
        description: name of a tensor to its scheme, and some settings.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        self.description = description
        self.packed_scales = False
        """Whether ``deq_scale`` holds the operator's words, as files for float16 have it."""

    @classmethod
    def get_name(cls) -> Any:
        return "ascend"

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        return [DESCRIPTION]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelSlimConfig:
        for key, known in CACHES.items():
            if config.get(key, FLOAT) not in (None, FLOAT, *known):
                raise UnsupportedQuantization(
                    f"{DESCRIPTION} has {key}: {config[key]!r}; of quantised caches {C8} (int8) is "
                    "implemented on an NPU. Quantise the checkpoint so, or without."
                )
        return cls(config)

    def maybe_update_config(
        self, model_name: str, hf_config: Any = None, revision: str | None = None
    ) -> None:
        def companions(name: str, dtype: str) -> tuple[str, ...]:
            self.packed_scales |= name.endswith(".deq_scale") and dtype == "I64"
            stem, _, last = name.rpartition(".")
            if last != "weight":
                return ()
            caches = ("kv_cache_scale", "kv_cache_offset") if self._caches(stem) else ()
            return (*COMPANIONS.get(str(self.description.get(name, FLOAT)), ()), *caches)

        require_companions(model_name, revision, companions)

    def _caches(self, projection: str) -> bool:
        """Whether what a projection makes is cached as int8."""
        return f"{projection}.kv_cache_scale" in self.description

    @staticmethod
    def get_cache_scale_mapper() -> Any:
        return FROM_MODELSLIM

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        self.description = hf_to_vllm_mapper.apply_dict(self.description)

    def scheme_of(self, prefix: str) -> str:
        """The scheme of a layer, which vLLM may have fused of several of the checkpoint's.

        Raises:
            UnsupportedQuantization: the description does not name it, or its parts differ.
        """
        stem, _, last = prefix.rpartition(".")
        parts = [f"{stem}.{name}" for name in self.packed_modules_mapping.get(last, [last])]
        found = {part: self.description.get(f"{part}.weight") for part in parts}
        for part, scheme in found.items():
            if scheme is None:
                wanted = f"{part}.weight"
                raise UnsupportedQuantization(
                    f"{DESCRIPTION} has no {wanted}. {nearest(wanted, self.description)}"
                )
        if len(set(found.values())) > 1:
            raise UnsupportedQuantization(
                f"{prefix} is one layer in vLLM, and {DESCRIPTION} gives its parts different "
                f"schemes: {found}. Quantise them alike."
            )
        return str(found.popitem()[1])

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        if isinstance(layer, RoutedExperts):
            scheme = self.scheme_of(f"{prefix}.0.gate_proj")
            if scheme == FLOAT:
                return UnquantizedFusedMoEMethod(layer.moe_config)
            return find_scheme(scheme, EXPERTS, prefix)(self, layer.moe_config)  # type: ignore[call-arg]
        if isinstance(layer, Attention) and self._caches(f"{STEM.sub('', prefix)}.k_proj"):
            return find_scheme(C8, ATTENTION, prefix)(self)  # type: ignore[call-arg]
        if isinstance(layer, VocabParallelEmbedding):
            scheme = self.description.get(f"{prefix}.weight", FLOAT)
            if isinstance(layer, ParallelLMHead) and scheme != FLOAT:
                return find_scheme(scheme, LINEAR, prefix)(self)  # type: ignore[call-arg]
            return None
        if isinstance(layer, LinearBase):
            scheme = self.scheme_of(prefix)
            if scheme == FLOAT:
                return UnquantizedLinearMethod()
            return find_scheme(scheme, LINEAR, prefix)(self)  # type: ignore[call-arg]
        return None


class ModelSlimLinearMethod(LinearMethodBase):
    """A linear layer of codes [out, in]; a scheme says what lies beside them."""

    codes: ClassVar[torch.dtype] = torch.int8
    each: ClassVar[int] = 1
    """Inputs to a code of that type."""

    def __init__(self, config: ModelSlimConfig) -> None:
        self.config = config

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        loader = extra_weight_attrs["weight_loader"]
        width = sum(output_partition_sizes)
        self.dtype = params_dtype
        self.names: list[str] = []

        def add(name: str, kind: type, *shape: int, dtype: torch.dtype, **layout: int) -> None:
            data = torch.zeros(shape, dtype=dtype)
            layer.register_parameter(name, kind(data=data, weight_loader=loader, **layout))
            self.names.append(name)

        add(
            "weight",
            ModelWeightParameter,
            width,
            input_size_per_partition // self.each,
            dtype=self.codes,
            input_dim=1,
            output_dim=0,
        )
        self.add_scales(add, width, input_size_per_partition, len(output_partition_sizes))

    def add_scales(self, add: Callable[..., None], width: int, length: int, parts: int) -> None:
        """Adds what lies beside the weights: a scale and an offset a channel."""
        for name in ("weight_scale", "weight_offset"):
            add(name, ChannelQuantScaleParameter, width, 1, dtype=torch.float32, output_dim=0)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        self.product(layer).install(layer, *self.names)

    def product(self, layer: torch.nn.Module) -> Any:
        """The product of what was loaded into a layer."""
        raise NotImplementedError

    def apply(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return layer.product(x, bias)


def symmetric(layer: torch.nn.Module, scheme: str) -> None:
    """Requires that the weights' offsets are zero, as the products of two int8 operands have none.

    Raises:
        UnsupportedQuantization: they are not.
    """
    if layer.weight_offset.any():
        raise UnsupportedQuantization(
            f"A layer of {scheme} has weight_offset other than zero; on an NPU the weights of "
            f"{scheme} are symmetric. Quantise with symmetric weights."
        )


@register_scheme("W8A8_DYNAMIC", LINEAR)
class W8A8DynamicLinear(ModelSlimLinearMethod):
    """int8 inputs with a scale a token."""

    def product(self, layer: torch.nn.Module) -> DynamicProduct:
        symmetric(layer, "W8A8_DYNAMIC")
        return DynamicProduct(layer.weight.data.t().contiguous(), layer.weight_scale.data.flatten())


@register_scheme("W8A8", LINEAR)
class W8A8Linear(ModelSlimLinearMethod):
    """int8 inputs with one scale and offset. ``deq_scale`` is the product's scale, and
    ``quant_bias`` takes the offset out and adds the layer's own bias, in the product's units.
    """

    def add_scales(self, add: Callable[..., None], width: int, length: int, parts: int) -> None:
        super().add_scales(add, width, length, parts)
        for name in ("input_scale", "input_offset"):
            add(name, PerTensorScaleParameter, parts, dtype=torch.float32)
        add("quant_bias", ChannelQuantScaleParameter, width, dtype=torch.int32, output_dim=0)
        words = torch.int64 if self.config.packed_scales else torch.float32
        add("deq_scale", ChannelQuantScaleParameter, width, dtype=words, output_dim=0)

    def product(self, layer: torch.nn.Module) -> StaticProduct:
        for name in ("input_scale", "input_offset"):
            values = getattr(layer, name)
            if (values != values[0]).any():
                raise UnsupportedQuantization(
                    f"The parts of a fused layer have different {name}: {values.tolist()}; they "
                    "read the same input. Quantise them together."
                )
        scale = layer.deq_scale.data
        if self.config.packed_scales:  # a float32 in the lower half of each word
            scale = scale.view(torch.int32)[::2].contiguous().view(torch.float32)
        return StaticProduct(
            layer.weight.data.t().contiguous(),
            scale,
            layer.input_scale.data[0],
            layer.input_offset.data[0],
            layer.quant_bias.data,
            self.dtype,
        )

    def apply(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return layer.product(x, None)  # quant_bias has the bias


@register_scheme("W8A16", LINEAR)
class W8A16Linear(ModelSlimLinearMethod):
    """int8 weights by whole inputs."""

    def product(self, layer: torch.nn.Module) -> WeightOnlyProduct:
        return WeightOnlyProduct(
            layer.weight.data.t().contiguous(),
            layer.weight_scale.data.t(),
            layer.weight_offset.data.t(),
            8,
            self.dtype,
        )


@register_scheme("W4A8_DYNAMIC", LINEAR)
class W4A8DynamicLinear(ModelSlimLinearMethod):
    """int4 weights, an int8 each, with a scale a channel times a scale a group.

    Inputs stay whole, since CANN's product of int8 by int4 has no such scales: nothing is lost
    beside what the weights lost.
    """

    def add_scales(self, add: Callable[..., None], width: int, length: int, parts: int) -> None:
        group = group_size(self.config.description, length)
        super().add_scales(add, width, length, parts)
        layout = {"dtype": torch.float32, "input_dim": 1, "output_dim": 0}
        for name in ("weight_scale_second", "weight_offset_second"):
            add(name, GroupQuantScaleParameter, width, length // group, **layout)

    def product(self, layer: torch.nn.Module) -> WeightOnlyProduct:
        symmetric(layer, "W4A8_DYNAMIC")
        scale = layer.weight_scale.data * layer.weight_scale_second.data
        return WeightOnlyProduct(layer.weight.data.t().contiguous(), scale.t(), None, 4, self.dtype)


@register_scheme("W8A8_MXFP8", LINEAR)
class W8A8Mxfp8Linear(ModelSlimLinearMethod):
    """float8 weights and inputs, with a power of two for each block of inputs."""

    codes: ClassVar[torch.dtype] = torch.float8_e4m3fn

    def __init__(self, config: ModelSlimConfig) -> None:
        super().__init__(config)
        require("npu_dynamic_mx_quant", what="A product in an MX format")

    def add_scales(self, add: Callable[..., None], width: int, length: int, parts: int) -> None:
        layout = {"dtype": torch.uint8, "input_dim": 1, "output_dim": 0}
        add("weight_scale", GroupQuantScaleParameter, width, length // MX_BLOCK, **layout)

    def product(self, layer: torch.nn.Module) -> MxProduct:
        return MxProduct(layer.weight.data, layer.weight_scale.data)


@register_scheme("W4A4_MXFP4", LINEAR)
class W4A4Mxfp4Linear(W8A8Mxfp8Linear):
    """float4 weights, two to a byte, and inputs, with a power of two for each block of inputs."""

    codes = torch.uint8
    each = 2


COMPANIONS: dict[str, tuple[str, ...]] = {
    "W8A8_DYNAMIC": ("weight_scale", "weight_offset"),
    "W8A8": ("input_scale", "input_offset", "quant_bias", "deq_scale"),
    "W8A16": ("weight_scale", "weight_offset"),
    "W4A8_DYNAMIC": ("weight_scale", "weight_scale_second"),
    "W8A8_MXFP8": ("weight_scale",),
    "W4A4_MXFP4": ("weight_scale",),
}
"""What has to lie beside a weight of each scheme."""
