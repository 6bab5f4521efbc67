"""Caches of int8 keys and values: their scales, from ModelSlim's and compressed-tensors' files."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod
from vllm.model_executor.models.utils import WeightsMapper
from vllm.v1.attention.backend import AttentionType

from vllm_ascend.quantization.products import require
from vllm_ascend.quantization.registry import ATTENTION, UnsupportedQuantization, register_scheme

C8 = "C8"
"""ModelSlim's name of the scheme."""

STEM = re.compile(r"\.attn$")
"""What vLLM's name of a layer's attention has more than the checkpoint's."""

FROM_MODELSLIM = WeightsMapper(
    orig_to_new_regex={re.compile(r"\.([kv])_proj\.kv_cache_(scale|offset)$"): r".attn.\1_cache_\2"}
)
"""Names of ModelSlim's files to those of the parameters here."""


def own_part(param: torch.nn.Parameter, loaded_weight: Tensor) -> None:
    """Loads this rank's heads; a head that several ranks have is loaded by each of them."""
    loaded = loaded_weight.flatten()
    size, ranks = param.numel(), get_tensor_model_parallel_world_size()
    first = get_tensor_model_parallel_rank() * (loaded.numel() // size) // ranks * size
    param.data.copy_(loaded[first : first + size])


@register_scheme(C8, ATTENTION)
class Int8CacheMethod(BaseKVCacheMethod):
    """int8 keys and values with a scale and an offset a channel, as ModelSlim calibrates them."""

    supports_pre_processed_weights = False

    scale: ClassVar[str] = "{}_cache_scale"
    zero: ClassVar[str] = "{}_cache_offset"

    def scales(self, layer: torch.nn.Module) -> int:
        """How many scales a layer's keys have, and its values."""
        return layer.num_kv_heads * layer.head_size

    def create_weights(self, layer: torch.nn.Module) -> None:
        from vllm_ascend.attention.quantised import QuantisedCacheImpl

        require("npu_fused_infer_attention_score", what="A cache of int8 keys and values")
        plain = layer.impl.sinks is None and layer.impl.capped is None
        if layer.attn_type != AttentionType.DECODER or not plain:
            raise UnsupportedQuantization(
                f"{layer.layer_name} has attention sinks or capped scores, or is an encoder's, and "
                "the operator reads int8 keys and values without; take a checkpoint whose cache "
                "is not quantised."
            )
        layer.kv_cache_torch_dtype = torch.int8
        layer.impl = QuantisedCacheImpl.instead_of(layer.impl)
        for part in "kv":
            for name, unset in ((self.scale, float("nan")), (self.zero, 0.0)):
                data = torch.full((self.scales(layer),), unset, dtype=torch.float32)
                parameter = torch.nn.Parameter(data, requires_grad=False)
                parameter.weight_loader = own_part  # type: ignore[attr-defined]
                layer.register_parameter(name.format(part), parameter)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        from vllm_ascend.attention.quantised import Codes

        made = []
        for part in "kv":
            scale, zero = (
                getattr(layer, name.format(part)).data for name in (self.scale, self.zero)
            )
            if not (scale > 0).all():  # false for what was not loaded, too
                raise UnsupportedQuantization(
                    f"{layer.layer_name} has no usable {self.scale.format(part)}: positive numbers "
                    "are needed. The checkpoint is incomplete: quantise or download it again."
                )
            each = layer.num_kv_heads * layer.head_size // scale.numel()
            codes = Codes(scale.repeat_interleave(each), zero.repeat_interleave(each), layer.dtype)
            for name in (self.scale, self.zero):
                delattr(layer, name.format(part))
            codes.settle(layer, f"{part}_codes_")
            made.append(codes)
        layer.impl.codes = tuple(made)


class CompressedTensorsCacheMethod(Int8CacheMethod):
    """int8 keys and values with one scale for all, or for each head.

    Args:
        config: vLLM's configuration of the checkpoint.
        scheme: its ``kv_cache_scheme``.

    Raises:
        UnsupportedQuantization: for what the operator does not have.
    """

    scale = "{}_scale"
    zero = "{}_zero_point"

    def __init__(self, config: Any, scheme: dict[str, Any]) -> None:
        super().__init__(config)
        self.strategy = str(scheme.get("strategy"))
        wanted = {"num_bits": 8, "symmetric": True, "dynamic": False}
        found = {key: scheme.get(key) for key in wanted}
        if found != wanted or self.strategy not in ("tensor", "attn_head"):
            raise UnsupportedQuantization(
                f"kv_cache_scheme has {found} and strategy {self.strategy!r}; on an NPU integers "
                f"are cached with {wanted} and strategy 'tensor' or 'attn_head'."
            )

    def scales(self, layer: torch.nn.Module) -> int:
        return layer.num_kv_heads if self.strategy == "attn_head" else 1
