"""Claims about released checkpoints: under the rules, never shown by more than stand-ins."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import matrix
from matrix.errors import DuplicateName, InvalidData, UnknownPattern, UnknownReference
from matrix.released import Claims
from tests.unit.matrix.conftest import Data


@pytest.fixture(scope="module")
def claims() -> Claims:
    return Claims(matrix.load())


def test_a_checkpoint_is_shown_by_the_cells_of_its_stand_in_and_no_other(claims: Claims) -> None:
    (claim,) = claims.matching(["qwen3-8b/lora/cann-9.1.0/a2"])
    assert claim.cell.model.released
    assert [showing.cell for showing in claim.shown_by] == ["qwen3/lora/cann-9.1.0/a2"]
    assert claim.cell.id not in {cell.id for cell in matrix.expand(claims.matrix)}


def test_what_the_stand_in_does_not_show_is_shown_in_two_parts(claims: Claims) -> None:
    (claim,) = claims.matching(["qwen2.5-7b/lora/cann-9.1.0/a2"])
    architecture, feature = claim.shown_by
    assert (architecture.shows, architecture.cell) == ("architecture", "qwen2/base/cann-9.1.0/a2")
    assert feature.shows == "feature"
    assert feature.cell.split("/")[1] == "lora"


@pytest.mark.parametrize("name", ["qwen2.5-7b", "deepseek-v3.1", "baichuan2-7b", "qwen3"])
def test_an_answer_from_memory_is_the_one_that_is_looked_up(claims: Claims, name: str) -> None:
    """Claims of a whole walk, the last of them, are as those that are asked for one at a time."""
    for claim in claims.matching([f"{name}/*/*/*"])[::7]:
        cell = claim.cell
        assert Claims(claims.matrix).of(cell.model, cell.feature, cell.cann, cell.hardware) == claim


def test_a_rule_about_a_stand_in_holds_for_the_checkpoints_shown_on_it(claims: Claims) -> None:
    (claim,) = claims.matching(["baichuan2-7b/base/cann-9.1.0/a2"])
    assert claim.cell.unsupported is not None
    assert claim.cell.unsupported.name == "left-vllm-0.23"
    assert claim.shown_by == ()


@pytest.mark.parametrize(
    ("model", "hardware", "cards"),
    [
        ("qwen3-8b", "a2", 1),
        ("qwen3-32b", "a2", 2),
        ("qwen3-32b", "950", 1),
        ("deepseek-v3.1", "a2", 16),
        ("qwen2.5-72b", "300i-duo", 8),
    ],
)
def test_devices_follow_from_size_and_memory(
    claims: Claims, model: str, hardware: str, cards: int
) -> None:
    assert claims.cards(model, claims.ranges[hardware]) == cards


def test_quantised_weights_need_fewer_devices(claims: Claims) -> None:
    a2 = claims.ranges["a2"]
    assert claims.cards("qwen3-32b", a2, "W8A8_DYNAMIC") < claims.cards("qwen3-32b", a2)


def test_every_claim_is_supported_or_has_a_reason(claims: Claims) -> None:
    for claim in claims:
        rule = claim.cell.unsupported
        assert rule is None or len(rule.reason) >= 10


def test_vllm_knows_every_architecture_or_a_rule_excludes_it(claims: Claims) -> None:
    vllm = find_spec("vllm")
    assert vllm is not None
    assert vllm.origin is not None
    registry = Path(vllm.origin).parent / "model_executor" / "models" / "registry.py"
    text = registry.read_text()
    gone = text[text.index("_PREVIOUSLY_SUPPORTED_MODELS = {") :]
    known = set(re.findall(r'^    "(\w+)"', text.removesuffix(gone), re.MULTILINE))
    first = claims.matrix.cann[claims.matrix.release.stable_cann]
    a2 = claims.ranges["a2"]
    for name, model in claims.models.items():
        feature = next(f for f in claims.matrix.features.values() if model.task in f.applies_to)
        # As vLLM makes a pooling model of one that generates, at its start.
        base = re.sub(r"For(SequenceClassification)$", "ForCausalLM", model.architecture)
        served = model.architecture in known or base in known
        rule = claims.rule(model, feature, first, a2, claims.cards(name, a2))
        assert served or rule is not None, f"{name}: vLLM has no {model.architecture}"


def test_a_pattern_that_matches_nothing_names_the_nearest(claims: Claims) -> None:
    with pytest.raises(UnknownPattern, match="qwen3-8b"):
        claims.matching(["qwen3-8bb/*"])


def test_a_misspelt_stand_in_names_place_and_nearest(data: Data) -> None:
    data.replace("families/qwen.yaml", "stand_in: qwen3\n", "stand_in: qwen33\n")
    error = data.error()
    assert isinstance(error, UnknownReference)
    assert re.search(r"qwen\.yaml:\d+: families\[0\]\.stand_in", str(error))
    assert "Did you mean 'qwen3'?" in str(error)


def test_a_misspelt_benchmark_names_the_nearest(data: Data) -> None:
    data.replace("families/qwen.yaml", "[gsm8k, ceval", "[gsm9k, ceval")
    assert "Did you mean 'gsm8k'?" in str(data.error())


def test_a_size_that_the_name_contradicts_is_refused(data: Data) -> None:
    data.replace("families/qwen.yaml", "billions: 32.8", "billions: 3.28")
    error = data.error()
    assert isinstance(error, InvalidData)
    assert "says 32.0" in str(error)


def test_a_repository_belongs_to_one_checkpoint(data: Data) -> None:
    data.replace("families/qwen.yaml", "repo: Qwen/Qwen3-4B,", "repo: Qwen/Qwen3-0.6b,")
    assert isinstance(data.error(), DuplicateName)


def test_a_range_that_shares_a_chip_has_that_chip(data: Data) -> None:
    data.replace("hardware.yaml", "same_chip_as: a2", "same_chip_as: a3")
    assert "do not speak for another" in str(data.error())
