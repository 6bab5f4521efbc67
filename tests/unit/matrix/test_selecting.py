"""Selections are never silently empty, and say what was probably meant."""

from __future__ import annotations

import pytest

import matrix
from matrix.errors import EmptySelection, UnknownPattern, UnknownSelection


@pytest.fixture(scope="module")
def loaded() -> matrix.Matrix:
    return matrix.load()


@pytest.fixture(scope="module")
def cells(loaded: matrix.Matrix) -> list[matrix.Cell]:
    return matrix.expand(loaded)


def test_pattern_selects_supported_cells_only(
    loaded: matrix.Matrix, cells: list[matrix.Cell]
) -> None:
    chosen = matrix.select(loaded, cells, ["qwen3*/*/cann-9.1.0/a2"])
    assert {cell.model.name for cell in chosen if not cell.model.quantised} == {
        "qwen3",
        "qwen3-5",
        "qwen3-embedding",
        "qwen3-moe",
        "qwen3-next",
        "qwen3-omni",
        "qwen3-reranker",
        "qwen3-vl",
    }
    assert all(cell.unsupported is None for cell in chosen)
    assert [c.id for c in chosen] == [c.id for c in cells if c in chosen], "in matrix order"


def test_several_patterns_unite_and_do_not_repeat(
    loaded: matrix.Matrix, cells: list[matrix.Cell]
) -> None:
    newest = {cell.id for cell in matrix.select(loaded, cells, ["llama/*/cann-9.1.0/a2"])}
    chosen = matrix.select(
        loaded, cells, ["llama/base/cann-[89].[15].0/a2", "llama/*/cann-9.1.0/a2"]
    )
    assert [cell.id for cell in chosen].count("llama/base/cann-9.1.0/a2") == 1
    assert {cell.id for cell in chosen} == newest | {"llama/base/cann-8.5.0/a2"}


def test_unknown_pattern_names_the_component_and_the_nearest(
    loaded: matrix.Matrix, cells: list[matrix.Cell]
) -> None:
    with pytest.raises(UnknownPattern) as caught:
        matrix.select(loaded, cells, ["qwen3/base/*", "smolm2-135m/bse/*/a2"])
    assert caught.value.exit_code == 2
    assert "No model is matched by 'smolm2-135m'" in str(caught.value)
    assert "Did you mean 'smollm2-135m/base/*/a2'?" in str(caught.value)


def test_name_alone_is_completed(loaded: matrix.Matrix, cells: list[matrix.Cell]) -> None:
    with pytest.raises(UnknownPattern, match=r"Did you mean 'qwen3/\*/\*/\*'"):
        matrix.select(loaded, cells, ["qwen3"])


def test_only_unsupported_cells_is_empty_with_the_reason(
    loaded: matrix.Matrix, cells: list[matrix.Cell]
) -> None:
    with pytest.raises(EmptySelection, match="generates no tokens") as caught:
        matrix.select(loaded, cells, ["qwen3-embedding/base/*"])
    assert caught.value.exit_code == 5


def test_pattern_outside_the_selection_is_empty(
    loaded: matrix.Matrix, cells: list[matrix.Cell]
) -> None:
    with pytest.raises(EmptySelection, match="no cell in common"):
        matrix.select(loaded, cells, ["gemma3/logprobs/*"], "smoke")


def test_unknown_selection(loaded: matrix.Matrix, cells: list[matrix.Cell]) -> None:
    with pytest.raises(UnknownSelection, match="Did you mean 'smoke'") as caught:
        matrix.select(loaded, cells, (), "smok")
    assert caught.value.exit_code == 2


def test_smoke_covers_what_a_newcomer_should_see(
    loaded: matrix.Matrix, cells: list[matrix.Cell]
) -> None:
    smoke = matrix.select(loaded, cells, selection="smoke")
    assert 20 <= len(smoke) <= 26, "a newcomer waits for it, and so does every change"
    assert {cell.cann.version for cell in smoke} > {"9.1.0"}
    assert {cell.hardware.name for cell in smoke} > {"a2"}
    assert {cell.model.name for cell in smoke} >= {
        "smollm2-135m",
        "qwen3",
        "llama",
        "gemma3",
        "qwen3-moe",
        "bge-reranker",
    }
    assert {cell.feature.name for cell in smoke} >= {
        *("base", "bfloat16", "chunked-prefill", "prefix-caching", "async-scheduling", "logprobs"),
        *("best-of-n", "beam-search", "guided-decoding", "http-serving", "ngram-speculation"),
        *("embedding", "scoring", "multimodal"),
    }
    assert any(cell.feature.transport == "http" for cell in smoke)


def test_all_holds_every_supported_cell(loaded: matrix.Matrix, cells: list[matrix.Cell]) -> None:
    supported = [cell for cell in cells if cell.unsupported is None]
    assert matrix.select(loaded, cells, selection="all") == supported


def test_nightly_sees_everything_on_the_newest_cann_and_every_version(
    loaded: matrix.Matrix, cells: list[matrix.Cell]
) -> None:
    chosen = matrix.select(loaded, cells, selection="nightly")
    newest = [c for c in cells if c.unsupported is None and c.cann.status == "current"]
    assert set(newest) < set(chosen)
    assert {(c.cann.version, c.hardware.name) for c in chosen} == {
        (c.cann.version, c.hardware.name) for c in cells if c.unsupported is None
    }
