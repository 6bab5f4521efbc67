"""The contract of a body: what it is given, what it returns, and how it says that a gate failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class GateFailed(Exception):
    """A comparison did not hold, or the feature left no proof: the cell's verdict is `failed`.

    Any other exception that leaves a body makes the verdict `error`.
    """


@dataclass(frozen=True)
class CellContext:
    """What a runner tells a body about its cell.

    Attributes:
        cell_id: `<model>/<feature>/cann-<version>/<hardware>`.
        model: the model's entry in the matrix, as plain data.
        feature: the feature's entry in the matrix, as plain data.
        checkpoint: folder of the checkpoint, in the layout of Hugging Face.
        workdir: an empty folder that the body may fill.
        log: file to which the body's output goes.
        chip: the chip as torch-npu names it, such as Ascend910B1.
        cann: version of CANN.
        environment: variables that the runner set for the device, for processes that a body starts.
        commands: what the body started, in its order; filled as it starts them.
    """

    cell_id: str
    model: dict[str, Any]
    feature: dict[str, Any]
    checkpoint: Path
    workdir: Path
    log: Path
    chip: str
    cann: str
    environment: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def started(self, command: str) -> None:
        """Note a command for readers of the record: folders of this machine become names."""
        names = {str(self.checkpoint): self.model["name"], str(self.workdir): "/path/to"}
        for folder in sorted(names, key=len, reverse=True):  # one may be inside the other
            command = command.replace(folder, names[folder])
        self.commands.append(command)

    def parameter(self, name: str, default: Any) -> Any:
        """Return what features.yaml says under `parameters`, or `default`."""
        return self.feature.get("parameters", {}).get(name, default)

    @property
    def dtype(self) -> str:
        """The dtype in which the cell runs: the feature's if it has one, else the model's."""
        engine = {**self.model.get("engine", {}), **self.feature.get("engine", {})}
        return str(engine.get("dtype", self.model["dtype"]))

    @property
    def time_limit(self) -> float:
        """Seconds that the cell may take."""
        return float(self.feature.get("time_limit", 300))


@dataclass
class Outcome:
    """What a body measured.

    Attributes:
        metrics: name to (value, unit).
        proof: what showed that the feature was on; must not be empty.
        samples: one entry per prompt, with hashes rather than texts.
        timings: seconds for `import`, `engine_start` and `generation`.
    """

    metrics: dict[str, tuple[float, str]] = field(default_factory=dict)
    proof: dict[str, object] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)


def require(condition: bool, message: str) -> None:
    """Fail the gate unless `condition` holds.

    Raises:
        GateFailed: with `message`.
    """
    if not condition:
        raise GateFailed(message)
