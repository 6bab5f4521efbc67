"""Operators over the ranks of a communicator, against plain formulas: experts on several ranks, and
products fused with a collective.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from simulator.tests.ranks import Warm
from simulator.tests.test_collectives import check

A3 = "Ascend910_9391"


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """The parent of ranks on the default chip, an Atlas A2."""
    made = Warm()
    yield made
    made.close()


@pytest.fixture(scope="module")
def warm_a3() -> Iterator[Warm]:
    made = Warm(chip=A3)
    yield made
    made.close()


class TestExperts:
    @pytest.mark.parametrize("count", [2, 4, 8])
    @pytest.mark.parametrize(
        "case",
        [
            {"form": ""},
            {"dtype": "bfloat16", "experts": 16},
            {"quant": 2, "count_type": 0},
            {"form": "", "quant": 2, "smooth": True, "dtype": "bfloat16"},
            {"mask": "tokens"},
            {"ragged": True, "comm_quant": 2},
        ],
        ids=lambda case: "-".join(map(str, case.values())),
    )
    def test_there_and_back(self, count: int, case: dict[str, Any], warm: Warm) -> None:
        check(warm.run(count, "expert_programs:there_and_back", case), 10)

    @pytest.mark.parametrize(
        ("count", "case"),
        [
            (2, {"shared": 1, "shared_ranks": 1}),
            (4, {"shared": 1, "shared_ranks": 2, "quant": 2, "smooth": True}),
            (4, {"shared": 2, "shared_ranks": 2, "count_type": 0, "mask": "choices"}),
            (8, {"shared": 2, "shared_ranks": 4, "dtype": "bfloat16", "mask": "tokens"}),
        ],
        ids=["1-on-1-of-2", "1-on-2-of-4", "2-on-2-of-4", "2-on-4-of-8"],
    )
    def test_shared_experts_are_on_the_first_ranks(
        self, count: int, case: dict[str, Any], warm_a3: Warm
    ) -> None:
        check(warm_a3.run(count, "expert_programs:there_and_back", case), 10)

    @pytest.mark.parametrize("cann", ["8.2.RC1", "8.3.RC1"])
    def test_earlier_versions_have_earlier_forms(self, cann: str) -> None:
        warm = Warm(cann=cann)
        check(warm.run(2, "expert_programs:there_and_back", {"quant": 2}), 10)
        check(warm.run(2, "expert_programs:there_and_back", {"form": ""}), 10)
        warm.close()

    @pytest.mark.parametrize("count", [2, 4])
    def test_experts_that_are_none(self, count: int, warm_a3: Warm) -> None:
        check(warm_a3.run(count, "expert_programs:special_experts"), 2)

    def test_combine_with_residual_and_norm(self, warm_a3: Warm) -> None:
        check(warm_a3.run(2, "expert_programs:normalised"), 3)

    def test_it_is_work_on_its_stream(self, warm: Warm) -> None:
        check(warm.run(2, "expert_programs:in_its_turn"), 5)

    @pytest.mark.parametrize("count", [2, 4])
    def test_the_end_of_a_peer_is_told(self, count: int, warm: Warm) -> None:
        found = warm.run(count, "expert_programs:a_peer_dies")
        assert found[-1] is None
        check(found, 2)

    @pytest.mark.parametrize("what", ["experts", "operator"])
    def test_calls_that_differ_are_told(self, what: str, warm: Warm) -> None:
        check(warm.run(2, "expert_programs:calls_differ", what), 1)

    def test_a_fault_that_is_asked_for(self, warm: Warm) -> None:
        fault = "fail:aclnnMoeDistributeDispatch*:2:1"
        fault = fault.replace("*", "V4")
        check(warm.run(2, "expert_programs:a_fault", CANNSIM_COLLECTIVE_FAULT=fault), 1)

    @pytest.mark.parametrize("chip", ["A2", "A3"])
    def test_what_cann_refuses_is_refused(self, chip: str, warm: Warm, warm_a3: Warm) -> None:
        on, variables = (warm, {}) if chip == "A2" else (warm_a3, {"HCCL_BUFFSIZE": "3"})
        check(on.run(2, "expert_programs:refusals", chip, **variables), 8)


class TestProducts:
    @pytest.mark.parametrize("count", [2, 4, 8])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_floats(self, count: int, dtype: str, warm: Warm) -> None:
        check(warm.run(count, "product_programs:floats", dtype), 8)

    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_quantised_with_all_reduce(self, count: int, warm: Warm) -> None:
        check(warm.run(count, "product_programs:quantised"), 5)

    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_quantised_with_a_part_of_the_rows(self, count: int, warm: Warm) -> None:
        check(warm.run(count, "product_programs:quantised_parts"), 3)

    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_grouped(self, count: int, warm_a3: Warm) -> None:
        check(warm_a3.run(count, "product_programs:grouped"), 4)

    def test_what_cann_refuses_is_refused(self, warm: Warm) -> None:
        check(warm.run(2, "product_programs:refusals"), 5)
