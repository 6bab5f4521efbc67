"""The Markdown comment: verdict first, each changed counter by name, cells that broke."""

from __future__ import annotations

from perf.markdown import SHOWN, comment
from tests.unit.perf.measured import STEPS, finding, measurement


def test_equal_trees_give_a_row_and_nothing_else() -> None:
    text = comment("aaa", "bbb", [finding()])
    assert text.startswith("### Performance: passed\n")
    assert "`bbb` against `aaa`, on a **simulated** NPU" in text
    row = next(line for line in text.splitlines() if line.startswith("| qwen3"))
    assert row.startswith("| qwen3/base/cann-9.1.0/a2 | 1 | passed | equal | 10 | 1.000 (")
    assert text.rstrip().endswith("|")


def test_changed_counters_are_listed_by_operator() -> None:
    head = measurement()
    head["decode"]["launches"]["aclnnAdds"] = {"count": 2 * STEPS, "bytes": 64}
    head["tokens"] = "other"
    text = comment("aaa", "bbb", [finding(head)])
    assert "### Performance: failed" in text
    assert "| 10 → 12 |" in text
    assert (
        "- worse: decode: launches of aclnnAdds: 0 to 2 per step (+1 per layer and step)\n" in text
    )
    assert "- base and head generated different tokens" in text


def test_long_lists_are_cut_and_counted() -> None:
    head = measurement()
    head["decode"]["launches"] |= {f"aclnn{i}": {"count": 1, "bytes": 0} for i in range(SHOWN + 5)}
    lines = comment("a", "b", [finding(head)]).splitlines()
    assert sum(line.startswith("- worse") for line in lines) == SHOWN
    assert "- and 6 more" in lines  # the sum is a line of its own


def test_what_broke_is_told_and_is_no_pass() -> None:
    text = comment("a", "b", [finding()], ["the engine died:\n```"])
    assert text.startswith("### Performance: error\n")
    assert "the engine died:\n'''" in text
