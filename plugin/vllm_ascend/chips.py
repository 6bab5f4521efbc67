"""What the chips can do that this plugin serves on: one row a range, and no other branch on a chip.

A chip's operators are asked for by the name of the torch-npu function that launches them. Sources
are the tables of supported products in CANN's operator documentation (8.3.RC1 and later) and, for
quantisation, in torch-npu's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
import torch_npu

from vllm_ascend.installation import DOCTOR


class UnknownChip(RuntimeError):
    """A chip without a row here; the message names it and those that are known."""


@dataclass(frozen=True)
class Chip:
    """A range of chips.

    Attributes:
        series: the range's name.
        soc_versions: torch-npu's numbers of the chips in it (``torch_npu.npu.get_soc_version``).
        dtypes: what weights and activations may be in, the preferred one first.
        lacks: functions of torch-npu that have no kernel there, or forms of one.
        grouped_weight_scales: whether weights of few bits may have several scales a channel.
    """

    series: str
    soc_versions: range
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16, torch.float32)
    lacks: frozenset[str] = field(default_factory=frozenset)
    grouped_weight_scales: bool = True

    def has(self, function: str) -> bool:
        """Whether torch-npu's function has a kernel on this chip."""
        return function not in self.lacks


CHIPS: tuple[Chip, ...] = (
    Chip(
        "Atlas 300I (310P)",
        range(200, 220),
        dtypes=(torch.float16, torch.float32),
        lacks=frozenset(
            {
                "npu_chunk_gated_delta_rule",
                "npu_convert_weight_to_int4pack",
                "npu_dynamic_mx_quant",
                "npu_dynamic_quant",
                "npu_fused_infer_attention_score",
                "npu_fused_infer_attention_score_v2",
                "npu_gemma_rms_norm",
                "npu_grouped_matmul",
                "npu_mrope",
                "npu_recurrent_gated_delta_rule",
                "npu_rotary_mul, interleave",
                "npu_scatter_pa_kv_cache",
                "npu_sparse_flash_attention",
            }
        ),
        grouped_weight_scales=False,
    ),
    Chip("Atlas A2 (910B)", range(220, 240), lacks=frozenset({"npu_dynamic_mx_quant"})),
    Chip("Atlas A3 (910_93)", range(250, 260), lacks=frozenset({"npu_dynamic_mx_quant"})),
    Chip(
        "Ascend 950",
        range(260, 280),
        # The document of the gated delta rule names A2 and A3 alone. npu_mrope launches the second
        # version of aclnnRopeWithSinCosCache wherever the toolkit has it; that is not for the 950.
        lacks=frozenset(
            {"npu_chunk_gated_delta_rule", "npu_mrope", "npu_recurrent_gated_delta_rule"}
        ),
    ),
)


@cache
def chip() -> Chip:
    """The chip of this process's NPUs.

    Raises:
        UnknownChip: no row has it.
    """
    # torch-npu's public function initialises the device first, and vLLM asks in a process that
    # forks the engine later; the number itself needs no device.
    number = torch_npu._C._npu_get_soc_version()
    for row in CHIPS:
        if number in row.soc_versions:
            return row
    known = ", ".join(f"{row.series} ({row.soc_versions[0]} on)" for row in CHIPS)
    raise UnknownChip(
        f"torch-npu gives this chip the number {number}, which vllm-ascend does not know. "
        f"Known: {known}. On a new chip of one of these ranges, extend vllm_ascend.chips.CHIPS; "
        f"`{DOCTOR}` shows what is installed."
    )
