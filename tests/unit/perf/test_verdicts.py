"""Verdicts: every counter is compared exactly and named; time needs the whole interval."""

from __future__ import annotations

import pytest

from perf.verdicts import distinct, overall
from tests.unit.perf.measured import LAYERS, STEPS, finding, measurement


def test_equal_counters_and_time_pass_without_a_word() -> None:
    found = finding()
    assert (found.verdict, found.counters, found.changes, found.reasons) == (
        "passed",
        "equal",
        [],
        [],
    )


def test_an_extra_launch_per_layer_fails_and_is_named_by_operator() -> None:
    head = measurement()
    head["decode"]["launches"]["aclnnAdds"] = {"count": LAYERS * STEPS, "bytes": 64}
    found = finding(head)
    assert found.verdict == "failed"
    assert "decode: launches of aclnnAdds: 0 to 2 per step (+1 per layer and step)" in found.reasons
    assert any("operand bytes of aclnnAdds" in reason for reason in found.reasons)


def test_an_added_item_shows_as_copies_and_synchronisations() -> None:
    head = measurement()
    head["decode"]["copies"]["device_to_host"]["count"] += STEPS
    head["decode"]["synchronizations"]["stream"] += STEPS
    found = finding(head)
    assert found.verdict == "failed"
    assert "decode: copies device to host: 1 to 2 per step" in found.reasons
    assert "decode: stream synchronisations: 1 to 2 per step" in found.reasons


def test_a_lost_prefix_cache_shows_in_the_prefill() -> None:
    head = measurement()
    head["prefill"]["engine"] |= {"computed_tokens": 150, "cached_prompt_tokens": 0}
    found = finding(head)
    assert found.verdict == "failed"
    assert "prefill: cached prompt tokens: 128 to 0 per step" in found.reasons
    assert "prefill: computed tokens: 22 to 150 per step" in found.reasons


@pytest.mark.parametrize(
    ("phase", "group", "name"),
    [
        ("decode", "allocations", "device"),
        ("decode", "synchronizations", "event"),
        ("prefill", "synchronizations", "device"),
        ("decode", "engine", "steps"),
    ],
)
def test_one_more_of_anything_fails(phase: str, group: str, name: str) -> None:
    head = measurement()
    head[phase][group][name] += 1
    assert finding(head).verdict == "failed"


def test_more_bytes_or_peak_memory_fail_too() -> None:
    head = measurement()
    head["decode"]["launches"]["aclnnMatmul"]["bytes"] += 1
    assert finding(head).verdict == "failed"
    head = measurement()
    head["peak_memory"] += 512
    found = finding(head)
    assert found.reasons == ["process: peak device memory, bytes: 1048576 to 1049088"]


def test_a_fused_operator_in_place_of_others_is_no_loss_and_is_shown() -> None:
    head = measurement()
    head["decode"]["launches"] = {"aclnnFused": {"count": STEPS, "bytes": STEPS}}
    found = finding(head)
    assert (found.verdict, found.counters) == ("passed", "better")
    assert any("aclnnFused" in str(change) for change in found.changes)


def test_an_operator_in_place_of_another_is_shown_as_changed() -> None:
    head = measurement()
    launches = head["decode"]["launches"]
    launches["aclnnSilu"] = launches.pop("aclnnSwiGlu")
    found = finding(head)
    assert (found.verdict, found.counters) == ("passed", "changed")


def test_time_fails_only_with_the_whole_interval_beyond_the_margin() -> None:
    slow = finding(ratios=(1.20, 1.21, 1.19, 1.20))
    assert (slow.time, slow.verdict, slow.counters) == ("failed", "failed", "equal")
    assert "host time per decode step is 1.200 times" in slow.reasons[0]
    noisy = finding(ratios=(0.9, 1.3, 1.0, 1.2))
    assert (noisy.time, noisy.verdict) == ("inconclusive", "inconclusive")
    assert "cannot tell" in noisy.reasons[0]
    assert finding(ratios=(0.80, 0.81, 0.79)).verdict == "passed"
    assert finding(ratios=(1.0,)).verdict == "inconclusive"  # a single pair has no interval


def test_counters_that_differ_between_runs_of_one_side_decide_nothing() -> None:
    found = finding()
    found.base[1]["decode"]["synchronizations"]["device"] += 1
    assert (found.counters, found.verdict) == ("unsteady", "inconclusive")
    assert "base: decode: device synchronisations" in "".join(found.unsteady)


def test_a_pool_that_grows_once_is_no_change() -> None:
    found = finding()
    found.head[1]["decode"]["allocations"]["device"] = 1
    assert (found.counters, found.verdict) == ("equal", "passed")


def test_events_depend_on_time_and_are_not_compared() -> None:
    head = measurement()
    head["decode"]["events"]["recorded"] += 1
    assert finding(head).counters == "equal"


def test_an_unsteady_counter_hides_no_other_that_got_worse() -> None:
    head = measurement()
    head["decode"]["launches"]["aclnnAdds"] = {"count": LAYERS * STEPS, "bytes": 64}
    found = finding(head)
    found.base[0]["decode"]["allocations"]["device"] = 1
    found.head[1]["decode"]["allocations"]["device"] = 1
    assert (found.counters, found.verdict) == ("worse", "failed")
    assert not any(change.group == "allocations" for change in found.changes)


def test_an_unsteady_counter_that_is_always_higher_is_worse() -> None:
    found = finding()
    for number, run in enumerate(found.head):
        run["decode"]["allocations"]["device"] = 1 + number
    assert found.verdict == "failed"
    assert any(change.group == "allocations" for change in found.worse)


def test_one_that_failed_counts_most() -> None:
    passed, open_, failed = finding(), finding(ratios=(1.0,)), finding(ratios=(1.3, 1.3, 1.3))
    assert overall([passed]) == "passed"
    assert overall([passed, open_]) == "inconclusive"
    assert overall([open_, failed, passed]) == "failed"


def test_a_slow_start_is_not_taken_for_a_slow_head() -> None:
    found = finding(ratios=(1.2,) * 6)
    found.starts = [0] * 6  # steady, and all of one start
    assert (found.time, found.undecided) == ("inconclusive", True)
    other = finding(ratios=(1.2, 1.2, 1.01, 1.0, 0.99, 1.0))
    other.starts = [0, 0, 1, 1, 2, 2]
    assert other.time == "inconclusive"
    other.starts = [0, 1, 2, 3, 4, 5]
    assert other.ratio.mean == pytest.approx(1.063, abs=0.001)


def test_a_head_that_is_slow_in_every_start_is_slow() -> None:
    found = finding(ratios=(1.2, 1.19, 1.21, 1.2, 1.18, 1.22))
    found.starts = [0, 0, 1, 1, 2, 2]
    assert (found.time, found.undecided) == ("failed", False)
    found.starts = [0, 0, 0, 1, 1, 1]
    assert found.undecided  # two starts are too few


def test_one_start_can_pass_and_unsteady_or_worse_counters_need_no_other() -> None:
    found = finding()
    found.starts = [0, 0, 0]
    assert (found.time, found.undecided) == ("passed", False)
    head = measurement()
    head["decode"]["launches"]["aclnnAdds"] = {"count": LAYERS * STEPS, "bytes": 64}
    worse = finding(head, ratios=(1.3, 1.3))
    worse.starts = [0, 0]
    assert not worse.undecided


def test_runs_that_counted_alike_are_compared_once() -> None:
    one, other = measurement(0.01), measurement(0.02)
    other["decode"]["engine"]["steps"] += 1
    again = {**measurement(0.03), "tokens": "def"}
    assert distinct([one, other, again]) == [one, other]
