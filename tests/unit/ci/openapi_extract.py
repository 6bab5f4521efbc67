"""Cuts the operations that the client uses out of GitHub's OpenAPI description.

    python -m tests.unit.ci.openapi_extract api.github.com.json

The description is the file `generated/api.github.com.json` of the npm package @octokit/openapi.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "data" / "github-openapi.json"

REPOSITORY = "/repos/{owner}/{repo}"
OPERATIONS = {
    f"{REPOSITORY}/actions/runners": ("get",),
    f"{REPOSITORY}/actions/runners/generate-jitconfig": ("post",),
    f"{REPOSITORY}/actions/runners/{{runner_id}}": ("get", "delete"),
    f"{REPOSITORY}/actions/runs/{{run_id}}": ("get",),
    f"{REPOSITORY}/actions/runs/{{run_id}}/artifacts": ("get",),
    f"{REPOSITORY}/actions/artifacts/{{artifact_id}}/{{archive_format}}": ("get",),
    f"{REPOSITORY}/issues/{{issue_number}}/comments": ("get", "post"),
    f"{REPOSITORY}/issues/comments/{{comment_id}}": ("patch",),
    f"{REPOSITORY}/pulls": ("get",),
}
"""What the client calls, as path and methods."""

PROSE = frozenset({"description", "summary", "externalDocs", "example", "examples", "x-github"})
"""Keys that validate nothing."""


def extract(document: dict[str, Any]) -> dict[str, Any]:
    """The description with only the operations above and the components that they refer to."""
    paths = {
        path: {method: lean(document["paths"][path][method]) for method in methods}
        for path, methods in OPERATIONS.items()
    }
    for operations in paths.values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                if "$ref" not in answer:
                    answer.setdefault("description", "")
    components: dict[str, dict[str, Any]] = {}
    todo = list(references(paths))
    while todo:
        _, _, kind, name = todo.pop().split("/")
        if name not in components.setdefault(kind, {}):
            part = lean(document["components"][kind][name])
            if kind == "responses":
                part.setdefault("description", "")
            components[kind][name] = part
            todo += references(part)
    info = {"title": document["info"]["title"], "version": document["info"]["version"]}
    info["license"] = document["info"]["license"]
    return {
        "openapi": document["openapi"],
        "info": info,
        "paths": paths,
        "components": {kind: dict(sorted(parts.items())) for kind, parts in components.items()},
    }


def lean(part: Any, inside_properties: bool = False) -> Any:
    """A part without prose; names of properties are kept whatever they are."""
    if isinstance(part, dict):
        return {
            key: lean(value, key == "properties" and not inside_properties)
            for key, value in part.items()
            if inside_properties or key not in PROSE or not _is_prose(key, value)
        }
    return [lean(value) for value in part] if isinstance(part, list) else part


def _is_prose(key: str, value: object) -> bool:
    return key != "description" or isinstance(value, str)


def references(part: Any) -> Iterator[str]:
    """Every reference in a part."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


if __name__ == "__main__":
    found = extract(json.loads(Path(sys.argv[1]).read_text()))
    TARGET.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
