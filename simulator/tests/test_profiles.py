"""Chips and CANN versions: the data, and torch-npu on each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from cannsim.environment import DEFAULT_CANN, DEFAULT_CHIP, profiles

from simulator.tests.test_observation import run

CHIPS, VERSIONS = tuple(profiles("chips")), tuple(profiles("cann"))
FULL = os.environ.get("HYPOTHESIS_PROFILE") == "full"
PAIRS = (
    [(chip, version) for chip in CHIPS for version in VERSIONS]
    if FULL
    # Every chip and every version once, in turn; the full profile runs all pairs.
    else [(chip, VERSIONS[i % len(VERSIONS)]) for i, chip in enumerate(CHIPS)]
)
PRODUCT = [[5.0, 14.0], [14.0, 50.0]]
ORDER = ("8.3.RC1", "8.5.0", "9.0.0")


class TestData:
    @pytest.mark.parametrize("chip", CHIPS)
    def test_every_figure_of_a_chip_has_a_source(self, chip: str) -> None:
        for name, figure in profiles("chips")[chip].items():
            if isinstance(figure, dict):
                assert figure["source"], name

    def test_every_chip_has_the_same_figures(self) -> None:
        keys = {tuple(sorted(profile)) for profile in profiles("chips").values()}
        assert len(keys) == 1

    def test_an_older_version_lacks_what_a_newer_one_lacks(self) -> None:
        lacks = [set(cann["lacks"]) for cann in profiles("cann").values()]
        for older, newer in pairwise(lacks):
            assert newer <= older

    def test_all_series_and_versions_that_are_promised(self) -> None:
        series = {chip["series"] for chip in profiles("chips").values()}
        assert series == {"A2", "A3", "300I Duo", "950"}
        assert list(VERSIONS) == ["8.2.RC1", "8.3.RC1", "8.5.0", "8.5.1", "9.0.0", "9.1.0"]

    def test_the_defaults_exist(self) -> None:
        assert DEFAULT_CHIP in CHIPS
        assert DEFAULT_CANN in VERSIONS


@pytest.fixture(scope="module")
def found() -> Iterator[dict[tuple[str, str], Future[dict[str, Any]]]]:
    """What torch-npu saw on each pair, two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            pair: pool.submit(run, "identity", "--chip", pair[0], "--cann", pair[1])
            for pair in PAIRS
        }


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_torch_npu_imports_and_computes(
    pair: tuple[str, str], found: dict[tuple[str, str], Future[dict[str, Any]]]
) -> None:
    chip, version = pair
    seen = found[pair].result()
    assert seen["name"] == chip
    assert seen["cann"] == seen["file"] == version
    assert seen["product"] == PRODUCT
    assert seen["memory"] == profiles("chips")[chip]["hbm_bytes"]["value"]
    reached = VERSIONS.index(version)
    assert seen["at_least"] == [v for v in ORDER if VERSIONS.index(v) <= reached]
    if "bfloat16" in profiles("chips")[chip]["lacks_types"]["value"]:
        assert "error code is 161002" in seen["bfloat16"]
        assert f"{chip} does not have this data type" in seen["bfloat16"]
    else:
        assert seen["bfloat16"] == [2.0] * 4


def test_an_operator_without_a_kernel_for_the_chip_is_refused() -> None:
    refused = run("attention", "--chip", "Ascend310P3")["message"]
    assert "561003" in refused
    assert "no kernel for Ascend310P3" in refused
    assert run("attention", "--chip", "Ascend910B1")["message"] == ""
