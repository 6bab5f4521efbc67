"""Data that is wrong ends in an error that names file, line, key and what was probably meant."""

from __future__ import annotations

import re

import pytest

import matrix
from matrix.errors import DuplicateName, InvalidData, UnknownReference
from tests.unit.matrix.conftest import Data


def test_data_of_the_repository_is_valid() -> None:
    loaded = matrix.load()
    assert {"smollm2-135m", "qwen3", "llama", "gemma3", "qwen3-embedding"} <= set(loaded.models)
    assert not loaded.models["smollm2-135m"].stand_in
    assert loaded.models["qwen3"].stand_in
    assert loaded.release.vllm == "0.32.0"


def test_misspelt_key_names_file_line_and_nearest(data: Data) -> None:
    data.replace("features.yaml", "    title: Chunked prefill", "    titel: Chunked prefill")
    error = data.error()
    line = (
        (data.root / "features.yaml").read_text().splitlines().index("    titel: Chunked prefill")
    )
    assert isinstance(error, InvalidData)
    assert error.exit_code == 2
    assert re.search(rf"features\.yaml:{line + 1}: features\[\d+\]\.titel", str(error))
    assert "Did you mean 'title'?" in str(error)
    assert "missing" not in str(error), "one mistake is reported once"


def test_misspelt_feature_in_a_rule_names_the_nearest(data: Data) -> None:
    data.replace("rules.yaml", "feature: [embedding,", "feature: [embeding,")
    error = data.error()
    assert isinstance(error, UnknownReference)
    assert error.exit_code == 2
    assert "rules.yaml" in str(error)
    assert "when.feature" in str(error)
    assert "Did you mean 'embedding'?" in str(error)


def test_misspelt_feature_in_a_selection_names_the_nearest(data: Data) -> None:
    data.replace("selections.yaml", "qwen3/prefix-caching/", "qwen3/prefix-cashing/")
    error = data.error()
    assert isinstance(error, UnknownReference)
    assert "selections.yaml: smoke.cells" in str(error)
    assert "Did you mean 'qwen3/prefix-caching/cann-9.1.0/a2'?" in str(error)


@pytest.mark.parametrize(
    ("axis", "value"),
    [("model", "qwen0.*"), ("family", "mamba"), ("cann", "7.0.0"), ("hardware", "a9")],
)
def test_rule_about_something_unknown(data: Data, axis: str, value: str) -> None:
    data.append(
        "rules.yaml",
        f"  - name: extra\n    when: {{{axis}: ['{value}']}}\n    reason: Does not matter here.\n",
    )
    error = data.error()
    assert isinstance(error, UnknownReference)
    assert f"when.{axis}" in str(error)
    assert repr(value) in str(error)


def test_rule_without_condition_is_refused(data: Data) -> None:
    data.append("rules.yaml", "  - name: extra\n    when: {}\n    reason: Rules out everything.\n")
    assert "every cell" in str(data.error())


def test_duplicate_across_files_names_both_places(data: Data) -> None:
    text = (data.root / "models" / "llama.yaml").read_text()
    (data.root / "models" / "other.yaml").write_text(text)
    error = data.error()
    assert isinstance(error, DuplicateName)
    assert error.exit_code == 2
    assert re.search(
        r"other\.yaml:\d+: .*'llama' is already defined at .*llama\.yaml:\d+", str(error)
    )


def test_key_written_twice_is_not_silently_the_last(data: Data) -> None:
    data.replace("features.yaml", "    time_limit: 180", "    time_limit: 180\n    time_limit: 1")
    assert "'time_limit' stands there twice" in str(data.error())


def test_unknown_task_names_the_nearest(data: Data) -> None:
    data.replace("features.yaml", "applies_to: [generate]", "applies_to: [generates]")
    error = data.error()
    assert "features[0].applies_to[0]: unknown value 'generates'" in str(error)
    assert "Did you mean 'generate'?" in str(error)


def test_unknown_kind_of_checkpoint_names_the_valid_ones(data: Data) -> None:
    data.replace("models/llama.yaml", "kind: stand-in", "kind: standin")
    assert "Did you mean 'stand-in'?" in str(data.error())


def test_misspelt_key_inside_a_union_names_the_key_of_that_kind(data: Data) -> None:
    data.replace("models/llama.yaml", "config_class:", "config_clas:")
    error = str(data.error())
    assert "models[0].checkpoint.config_clas: unknown key" in error
    assert "Did you mean 'config_class'?" in error


def test_version_as_a_number_is_refused(data: Data) -> None:
    data.replace("releases.yaml", 'torch: "2.13.0"', "torch: 2.13")
    error = str(data.error())
    assert "releases[0].torch" in error
    assert "quotes" in error


def test_vocabulary_larger_than_the_model_is_refused(data: Data) -> None:
    data.replace(
        "models/llama.yaml",
        "        vocab_size: 512\n        hidden",
        "        vocab_size: 300\n        hidden",
    )
    assert "tokenizer.vocab_size (512)" in str(data.error())


def test_broken_yaml_names_the_line(data: Data) -> None:
    data.append("cann.yaml", "  - version: [\n")
    assert re.search(r"cann\.yaml:\d+: not valid YAML", str(data.error()))


def test_missing_file(data: Data) -> None:
    (data.root / "rules.yaml").unlink()
    assert "rules.yaml: the file does not exist" in str(data.error())


def test_empty_file(data: Data) -> None:
    (data.root / "cann.yaml").write_text("")
    assert "cann.yaml" in str(data.error())


@pytest.mark.parametrize("statuses", [("past",), ("current", "current")])
def test_exactly_one_release_is_current(data: Data, statuses: tuple[str, ...]) -> None:
    text = (data.root / "releases.yaml").read_text()
    head, entry, *_ = text.split("  - name:", 2)
    entries = [
        "  - name:" + entry.replace('"0.1.0"', f'"0.{n}.0"', 1).replace("current", status, 1)
        for n, status in enumerate(statuses)
    ]
    (data.root / "releases.yaml").write_text(head + "".join(entries))
    assert "exactly one" in str(data.error())


def test_feature_that_no_rule_explains(data: Data) -> None:
    data.replace(
        "rules.yaml",
        "when: {task: [embed, classify], applies: false}",
        "when: {model: [gemma3], applies: false}",
    )
    error = data.error()
    assert "bert/base" in str(error)
    assert "no rule explains" in str(error)


def test_many_errors_are_counted_not_poured_out(data: Data) -> None:
    path = data.root / "features.yaml"
    path.write_text(path.read_text().replace("    description:", "    descriptoin:"))
    error = str(data.error())
    assert "more errors in this file" in error
    assert len(error.splitlines()) < 12
