"""Expansion covers every combination, and rules take cells away for the versions they name."""

from __future__ import annotations

import dataclasses

import pytest

import matrix
from matrix.ruling import Ruling
from matrix.schema import Rule
from tests.unit.matrix.conftest import Data


def test_every_combination_once() -> None:
    loaded = matrix.load()
    cells = matrix.expand(loaded)
    axes = (loaded.models, loaded.features, loaded.cann, loaded.hardware)
    product = 1
    for axis in axes:
        product *= len(axis)
    assert len({cell.id for cell in cells}) == len(cells) == product


def test_id_has_the_stable_form() -> None:
    ids = {cell.id for cell in matrix.expand(matrix.load())}
    assert "smollm2-135m/base/cann-9.1.0/a2" in ids


def test_every_model_has_supported_cells_on_every_cann_version_in_use() -> None:
    loaded = matrix.load()
    in_use = {version for version, cann in loaded.cann.items() if cann.status != "retired"}
    cells = [c for c in matrix.expand(loaded) if c.unsupported is None]
    supported = {(c.model.name, c.cann.version) for c in cells}
    newest = {(c.model.name, c.hardware.name) for c in cells if c.cann.status == "current"}
    known = {(c.cann.version, c.hardware.name) for c in cells if c.model.name == "llama"}
    ruled_out = {
        name
        for rule in loaded.rules
        if rule.effect == "unsupported" and not rule.when.hardware and not rule.when.feature
        if not rule.when.released
        if not (rule.until and rule.until.cann)
        for name, model in loaded.models.items()
        if name in (rule.when.model or ()) or model.family in (rule.when.family or ())
    }
    served = set(loaded.models) - ruled_out
    assert {pair for pair in supported if pair[1] in in_use} == {
        (model, cann)
        for model in served
        for cann in in_use
        if any((model, hardware) in newest for at, hardware in known if at == cann)
    }


def test_pooling_and_generation_exclude_each_other() -> None:
    for cell in matrix.expand(matrix.load()):
        if cell.unsupported and cell.unsupported.name not in (
            "pooling-generates-nothing",
            "generation-has-no-embedding",
            "media-are-asked-apart",
            "text-has-no-media",
        ):
            continue
        tasks = {
            "embedding": {"embed"},
            "scoring": {"classify"},
            "pair-scoring": {"embed", "classify"},
            "token-pooling": {"embed", "classify"},
            "multimodal": {"multimodal"},
            "multimodal-prefix-caching": {"multimodal"},
        }
        answered = cell.model.task in tasks.get(cell.feature.name, {"generate"})
        assert (cell.unsupported is None) == answered, cell.id


def test_a_feature_that_a_model_does_not_list_is_claimed_elsewhere(data: Data) -> None:
    cells = {cell.id: cell for cell in matrix.expand(matrix.load())}
    listed, other = (cells[f"qwen2/{f}/cann-9.1.0/a2"] for f in ("base", "logprobs"))
    assert listed.unsupported is None
    assert other.unsupported is not None
    assert other.unsupported.effect == "not-applicable"
    data.replace("rules.yaml", "when: {claimed: false}", "when: {claimed: true, model: [baichuan]}")
    assert "no rule explains why" in str(data.error())


def test_a_model_without_a_checkpoint_needs_a_rule(data: Data) -> None:
    data.replace(
        "rules.yaml", "when: {model: [baichuan, minimax-text-01]}", "when: {model: [llama]}"
    )
    assert "baichuan/base" in str(data.error())
    assert "kind: none" in str(data.error())


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, {"8.5.0", "9.1.0"}),
        (None, {"cann": "9.1.0"}, {"8.5.0"}),
        ({"cann": "9.0.0"}, None, {"9.1.0"}),
        ({"cann": "8.5.0"}, {"cann": "8.5.1"}, {"8.5.0"}),
        ({"cann": "10.0.0"}, None, set()),
        (None, {"plugin": "0.1.0"}, set()),
        (None, {"plugin": "0.1.1"}, {"8.5.0", "9.1.0"}),
        ({"vllm": "0.33.0"}, None, set()),
    ],
)
def test_bounds_of_a_rule(
    since: dict[str, str] | None, until: dict[str, str] | None, expected: set[str]
) -> None:
    loaded = matrix.load()
    versions = {"8.5.0", "9.1.0"}
    rule = Rule.model_validate(
        {
            "name": "bounded",
            "when": {"model": ("qwen3",), "feature": ("base",)},
            "reason": "Only a test says so.",
            "since": since,
            "until": until,
        }
    )
    ruling = Ruling(dataclasses.replace(loaded, rules=(rule,)))
    held = {
        cell
        for cell in matrix.expand(loaded)
        if ruling.claims(cell.model, cell.feature) & ruling.places(cell.cann, cell.hardware)
    }
    assert {cell.cann.version for cell in held} & versions == expected
    assert {cell.feature.name for cell in held} <= {"base"}


def test_versions_are_compared_as_versions_not_as_text(data: Data) -> None:
    data.append("cann.yaml", '  - version: "10.0.0"\n    status: current\n    source: a test\n')
    data.append(
        "rules.yaml",
        "  - name: extra\n    when: {model: [gemma3], feature: [logprobs]}\n"
        '    since: {cann: "9.1.0"}\n    reason: A reason of enough words.\n',
    )
    loaded = matrix.load(data.root)
    gone = {c.id for c in matrix.expand(loaded) if c.unsupported and c.unsupported.name == "extra"}
    assert {name for name in gone if name.endswith("/a2")} == {
        "gemma3/logprobs/cann-9.1.0/a2",
        "gemma3/logprobs/cann-10.0.0/a2",
    }


def test_media_belong_to_the_task_that_asks_about_them(data: Data) -> None:
    data.replace("models/audio.yaml", "task: multimodal", "task: generate")
    assert "media belongs to the task multimodal" in str(data.error())
