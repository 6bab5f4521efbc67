"""Chips as rows: numbers that do not overlap, what each lacks, an unknown one refused by name."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch_npu
from vllm_ascend import chips
from vllm_ascend.attention.backend import AscendAttentionBackend
from vllm_ascend.platform import NPUPlatform, UnsupportedOnNPU


@pytest.fixture
def soc(monkeypatch: pytest.MonkeyPatch):
    """Lets torch-npu report another chip."""

    def report(number: int) -> None:
        monkeypatch.setattr(torch_npu._C, "_npu_get_soc_version", lambda: number)
        chips.chip.cache_clear()

    yield report
    chips.chip.cache_clear()


def test_numbers_belong_to_one_row() -> None:
    for before, after in pairwise(sorted(chips.CHIPS, key=lambda c: c.soc_versions.start)):
        assert before.soc_versions.stop <= after.soc_versions.start


def test_what_a_chip_lacks_is_a_function_of_torch_npu() -> None:
    for row in chips.CHIPS:
        for name in row.lacks:
            function = name.partition(",")[0]  # behind a comma stands a form of it
            assert callable(getattr(torch_npu, function)), name


@pytest.mark.parametrize(
    ("number", "series"), [(202, "310P"), (220, "910B"), (250, "910_93"), (260, "950")]
)
def test_the_chip_is_found_by_its_number(soc, number: int, series: str) -> None:
    soc(number)
    assert series in chips.chip().series


def test_an_unknown_chip_is_named_with_those_that_are_known(soc) -> None:
    soc(104)
    with pytest.raises(chips.UnknownChip, match=r"the number 104.*Atlas A2"):
        chips.chip()


@pytest.mark.parametrize(
    ("number", "implementation"), [(202, "SeparateAttentionImpl"), (220, "AscendAttentionImpl")]
)
def test_attention_is_apart_where_it_is_not_fused(soc, number: int, implementation: str) -> None:
    soc(number)
    assert AscendAttentionBackend.get_impl_cls().__name__ == implementation


def test_a_dtype_that_the_chip_lacks_is_refused_with_those_it_has(soc) -> None:
    soc(202)
    with pytest.raises(UnsupportedOnNPU, match=r"310P.* bfloat16.*float16, float32"):
        NPUPlatform.check_if_supports_dtype(torch.bfloat16)
    assert NPUPlatform().supported_dtypes[0] == torch.float16
