"""The command: order of the pairs, records that are stored, exit codes, processes that die."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from perf import compare, processes, records
from perf.__main__ import main
from perf.errors import EngineError
from perf.trees import Tree
from perf.verdicts import Finding
from perf.worker import Spec, _subtract
from reports import Store, outcome
from tests.unit.perf.measured import STEPS, finding, measurement

PAIR = (Tree("base", Path("/b"), "b" * 40), Tree("head", Path("/h"), "c" * 40))
ABOUT = {
    "platform": "npu",
    "weights_on": ["npu"],
    "layers": 2,
    "prefix_caching": True,
    "async_scheduling": False,
}


class Side:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def measure(self, batch: int) -> dict[str, Any]:
        self.calls.append(self.name)
        return measurement()


def test_each_side_is_first_in_every_other_pair_and_two_are_dropped() -> None:
    calls: list[str] = []
    found = Finding("a/b/cann-1/c", 1, 0.05, 2)
    compare.interleave(found, Side("A", calls), Side("B", calls), 4)
    assert "".join(calls) == "BAAB" * 3
    assert (len(found.base), len(found.head)) == (4, 4)
    compare.interleave(found, Side("A", calls), Side("B", calls), 2, start=1)
    assert found.starts == [0] * 4 + [1] * 2


def record(found: Finding) -> Any:
    cell = compare.chosen(["qwen3/base/cann-9.1.0/a2"])[0]
    return records.make(cell, PAIR, [found], ABOUT, datetime.now(UTC), 1.0, ["log"])


def test_records_say_what_was_measured_and_why_it_failed(tmp_path: Path) -> None:
    head = measurement()
    head["decode"]["launches"]["aclnnAdds"] = {"count": 2 * STEPS, "bytes": 64}
    made = record(finding(head))
    store = Store(f"sqlite:///{tmp_path}/r.sqlite")
    store.add(made)
    [stored] = store.records(kind="perf")
    assert stored.verdict == "failed"
    assert "aclnnAdds" in stored.error.message
    assert stored.metrics["batch-1/launches"].value == 12
    assert stored.metrics["batch-1/time_ratio"].value == pytest.approx(1.0, abs=0.01)
    assert (stored.versions.commit, stored.proof["base"]["commit"]) == ("c" * 40, "b" * 40)
    assert sum("pair" in sample for sample in stored.samples) == 3
    assert any(s.get("change", {}).get("name") == "aclnnAdds" for s in stored.samples)


def test_exit_codes_and_the_outcome_for_machines() -> None:
    passed, failed = record(finding()), record(finding(ratios=(1.3, 1.3, 1.3)))
    unsure = record(finding(ratios=(1.0,)))
    died = records.make_error(
        compare.chosen([passed.cell])[0], PAIR, EngineError("died"), datetime.now(UTC), 1.0, []
    )
    assert outcome.exit_code([passed], 0) == 0
    assert outcome.exit_code([passed, unsure], 0) == 4
    assert outcome.exit_code([passed, unsure, died], 0) == 3
    assert outcome.exit_code([passed, died, failed], 0) == 1
    assert outcome.exit_code([passed], 1) == 3  # a record was not stored
    summary = outcome.document([passed, unsure, died, failed])["summary"]
    ended = {name: count for name, count in summary.items() if count}
    assert ended == {"passed": 1, "failed": 1, "error": 1, "inconclusive": 1}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--base", "no-such-revision"], 2, "There is no revision 'no-such-revision'"),
        (["--base", "HEAD", "--head-tree", "/nonexistent"], 2, "no plugin/vllm_ascend"),
        (["--base", "HEAD", "nosuch/*/*/*"], 2, "nosuch"),
        (["--base", "HEAD", "qwen3-embedding/embedding/cann-9.1.0/a2"], 5, "can be compared"),
    ],
)
def test_bad_input(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == code
    assert says in capsys.readouterr().err


def test_outside_a_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    options = parser.parse_args(["--base", "HEAD", "--store", f"sqlite:///{tmp_path}/r.sqlite"])
    assert compare.run(options, tmp_path) == 2
    assert "not a git repository" in capsys.readouterr().err


def worker(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch, **named: Any) -> Any:
    monkeypatch.setattr(processes, "environment", lambda *_: {})
    cell = compare.chosen(["qwen3/base/cann-9.1.0/a2"])[0]
    spec = Spec("", "", {"dtype": "float32"}, 1, 1, 1)
    command = (sys.executable, "-c", code)
    return processes.Worker(cell, PAIR[0], spec, tmp_path / "w", command=command, **named)


def test_a_process_that_dies_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        worker(tmp_path, "raise SystemExit('no engine')", monkeypatch) as side,
        pytest.raises(EngineError, match=r"ended \(1\)[\s\S]*no engine"),
    ):
        side.ready()


def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time; time.sleep(60)"
    with (
        worker(tmp_path, code, monkeypatch, time_limit=0.5) as side,
        pytest.raises(EngineError, match=r"was ended after 0\.5 s"),
    ):
        side.ready()


def test_an_engine_on_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = json.dumps({"platform": "cpu", "weights_on": ["cpu"]})
    with (
        worker(tmp_path, f"print('''{about}''')", monkeypatch) as side,
        pytest.raises(EngineError, match="not on an NPU"),
    ):
        side.ready()


def test_decoding_is_the_longer_generation_less_the_prefill() -> None:
    later = {"launches": {"a": {"count": 5, "bytes": 50}, "b": {"count": 1, "bytes": 2}}}
    earlier = {"launches": {"a": {"count": 2, "bytes": 20}, "c": {"count": 1, "bytes": 1}}}
    assert _subtract(later, earlier)["launches"] == {
        "a": {"count": 3, "bytes": 30},
        "b": {"count": 1, "bytes": 2},
        "c": {"count": -1, "bytes": -1},
    }
