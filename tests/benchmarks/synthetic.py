"""Matrices of any size, made up by a seed: models, features, versions, hardware, and rules."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PER_FILE = 20
"""Models in one file."""


@dataclass(frozen=True)
class Size:
    """How many entries of each sort a matrix has."""

    models: int = 100
    features: int = 50
    cann: int = 8
    hardware: int = 5
    rules: int = 60

    @property
    def combinations(self) -> int:
        """How many cells that makes, supported or not."""
        return self.models * self.features * self.cann * self.hardware


def write(root: Path, size: Size, seed: int = 0) -> Path:
    """Write the YAML files of a made-up matrix into `root`, and return it.

    JSON is YAML, which the files are written as, one line for an entry. A third of the models
    claim a few features only, as stand-ins of the real matrix do.
    """
    chance = random.Random(seed)
    names = {
        "model": [f"model-{i}" for i in range(size.models)],
        "feature": [f"feature-{i}" for i in range(size.features)],
        "cann": [f"9.{i}.0" for i in range(size.cann)],
        "hardware": [f"range-{i}" for i in range(size.hardware)],
    }
    (root / "models").mkdir(parents=True)
    models = [_model(name, i, names["feature"], chance) for i, name in enumerate(names["model"])]
    for start in range(0, size.models, PER_FILE):
        _write(root / "models" / f"{start}.yaml", "models", models[start : start + PER_FILE])
    _write(root / "features.yaml", "features", [_feature(name) for name in names["feature"]])
    cann = [{"version": v, "status": "current", "source": "made up"} for v in names["cann"]]
    _write(root / "cann.yaml", "cann", cann)
    _write(root / "hardware.yaml", "hardware", [_hardware(name) for name in names["hardware"]])
    _write(root / "releases.yaml", "releases", [_release(names["cann"])])
    _write(root / "rules.yaml", "rules", [*_rules(names, size.rules, chance), UNCLAIMED])
    (root / "combinations.yaml").write_text(json.dumps({"combinations": _pairs(names)}))
    _write_empty(root)
    everything = {"name": "all", "title": "All", "description": "All.", "cells": ["*"]}
    _write(root / "selections.yaml", "selections", [everything])
    _write(root / "accuracy.yaml", "accuracy", [_suite()])
    return root


def _write_empty(root: Path) -> None:
    """Write the files of facts that no cell comes from."""
    (root / "families").mkdir()
    _write(root / "families" / "none.yaml", "families", [])
    for key in ("serving", "torch_npu", "benchmarks", "expected"):
        _write(root / f"{key}.yaml", key, [])
    shape = {
        "source": "made up by a seed",
        "columns": [],
        "tables": [],
        "features": [],
        "pairs": [],
    }
    (root / "upstream.yaml").write_text(json.dumps({"upstream": shape}))
    policy = {"maintained_minors": 3, "versions": [], "branches": []}
    (root / "branches.yaml").write_text(json.dumps({"policy": policy, "branches": []}))


UNCLAIMED: Mapping[str, Any] = {
    "name": "claimed-elsewhere",
    "effect": "not-applicable",
    "when": {"claimed": False},
    "reason": "The model does not claim the feature.",
}


def _rules(
    names: Mapping[str, Sequence[str]], count: int, chance: random.Random
) -> list[dict[str, Any]]:
    """Rules about two or three axes, each of some of their values."""
    rules = []
    for number in range(count):
        axes = chance.sample(sorted(names), chance.choice((2, 2, 3)))
        when = {a: chance.sample(names[a], max(1, len(names[a]) // 8)) for a in axes}
        rule: dict[str, Any] = {"name": f"rule-{number}", "reason": "Made up.", "when": when}
        if number % 5 == 0:
            rule["until"] = {"cann": chance.choice(names["cann"])}
        rules.append({**rule, "reason": f"Reason number {number}, made up."})
    return rules


def _model(name: str, i: int, features: Sequence[str], chance: random.Random) -> dict[str, Any]:
    few = {"features": sorted(chance.sample(features, max(1, len(features) // 4)))}
    return {
        "name": name,
        "title": name,
        "family": f"family-{i // 2}",
        "description": "Made up.",
        "task": "generate",
        "architecture": "MadeUpForCausalLM",
        "checkpoint": {"kind": "hub", "repo": "nobody/nothing", "revision": "0"},
        **(few if i % 3 == 0 else {}),
    }


def _feature(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "description": "Made up.",
        "proof": "Made up.",
        "body": "tests.e2e.generation:base",
        "applies_to": ["generate"],
        "time_limit": 60,
    }


def _hardware(name: str) -> dict[str, Any]:
    soc = f"Chip{name}"
    about = {
        "cards": 8,
        "memory_gib": 64,
        "image": "chip",
        "products": [f"Product {name}"],
        "evidence": ["simulated"],
        "source": "made up by a seed",
    }
    return {"name": name, "title": name, "soc": soc, **about}


def _release(cann: Sequence[str]) -> dict[str, Any]:
    versions = {"plugin": "0.1.0", "vllm": "0.32.0", "torch": "2.13.0", "torch_npu": "2.13.0"}
    return {
        "name": "only",
        "publisher": "project",
        "status": "current",
        **versions,
        "python": ">=3.11,<3.12",
        "stable_cann": cann[0],
        "cann": list(cann),
        "source": "made up by a seed",
    }


def _pairs(names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "body": "tests.e2e.combined:pair",
        "time_limit": 60,
        "model": names["model"][0],
        "cann": [names["cann"][-1]],
        "hardware": [names["hardware"][0]],
        "features": list(names["feature"][:2]),
        "rules": [],
        "otherwise": "Made up, as all of it is.",
    }


def _suite() -> dict[str, Any]:
    return {
        "name": "suite",
        "title": "Suite",
        "description": "Made up.",
        "cells": ["model-0/feature-0/cann-9.0.0/range-0"],
        "port": {"logprob": 0.1, "divergence": 0.1, "agreement": 0.9, "tie": 0.1},
        "change": {"alpha": 0.01, "power": 0.8, "tolerated": 0.05, "flips": 0.03},
        "time_limit": 60,
    }


def _write(path: Path, key: str, entries: Sequence[object]) -> None:
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    path.write_text(f'{{"{key}": [\n{lines}\n]}}\n', encoding="utf-8")
