"""Exports the JSON schemas by which an editor completes and checks matrix/*.yaml."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from matrix.errors import InvalidData
from matrix.loader import FILES
from matrix.schema import CombinationsFile, UpstreamFile

FOLDER = Path(__file__).parent / "schemas"
"""Where the exported schemas are committed."""


def render() -> dict[str, str]:
    """Return file name to text for every schema."""
    own: dict[str, type[BaseModel]] = {"combinations": CombinationsFile, "upstream": UpstreamFile}
    return {f"{stem}.json": _text(stem, model) for stem, model in {**own, **FILES}.items()}


def _text(stem: str, model: type[BaseModel]) -> str:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"ascend-matrix {stem}",
        **{k: v for k, v in model.model_json_schema().items() if k != "title"},
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(out: Path = FOLDER) -> list[Path]:
    """Write every schema below `out`; return the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in render().items():
        path = out / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def check(folder: Path = FOLDER) -> None:
    """Raise InvalidData where a committed schema is not what the models say."""
    for name, text in render().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise InvalidData(
                f"{path.parent.name}/{name}: the schema is not current.",
                "matrix/schema.py was changed after the schemas had been exported.",
                "Run `python -m matrix schema` and commit the result.",
            )
