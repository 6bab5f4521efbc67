"""Reads one YAML file into a strict model; errors name file, line, key and nearest name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from matrix.errors import InvalidData, did_you_mean, nearest

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_SHOWN = 8  # errors printed for one file; the rest are counted

FileT = TypeVar("FileT", bound=BaseModel)
Location = Sequence[int | str]


class _Loader(_Base):  # type: ignore[misc]
    """A safe loader that refuses a key written twice and leaves dates as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str" and key.value != "<<":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value} is not text; put it in quotes",
                    problem_mark=key.start_mark,
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}


class Document(Generic[FileT]):
    """A YAML file that was read, with the model made of it and the line of every key."""

    def __init__(self, path: Path, model: type[FileT]) -> None:
        """Read and validate `path`.

        Raises:
            InvalidData: the file is missing, is not YAML, or does not fit `model`.
        """
        self.path = path
        self._node: yaml.Node | None = None
        data = self._read()
        try:
            # JSON keeps strictness where it belongs: lists become tuples and text becomes dates,
            # while a number is still no version.
            self.content: FileT = model.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise self._explain(model, error) from None

    def _read(self) -> object:
        try:
            loader = _Loader(self.path.read_text(encoding="utf-8"))
            self._node = loader.get_single_node()
            return loader.construct_document(self._node) if self._node is not None else None
        except FileNotFoundError:
            raise InvalidData(
                f"{display(self.path)}: the file does not exist.",
                "The matrix needs every one of its files, even if one has an empty list.",
                "Restore it from version control, or name another folder.",
            ) from None
        except UnicodeDecodeError as error:
            raise InvalidData(f"{display(self.path)}: not UTF-8 text ({error.reason}).") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{display(self.path)}:{mark.line + 1}" if mark else display(self.path)
            problem = getattr(error, "problem", None) or str(error)
            raise InvalidData(
                f"{where}: not valid YAML: {problem}.",
                "Usually the indentation is off, or a text with ': ' or '#' lacks quotes.",
            ) from None

    def where(self, location: Location) -> str:
        """Return `file:line: key.path` for the deepest part of `location` that the file has."""
        line = _line(self._node, location)
        return f"{display(self.path)}{f':{line}' if line else ''}: {_dotted(location)}"

    def _explain(self, model: type[BaseModel], error: ValidationError) -> InvalidData:
        errors = error.errors(include_url=False)
        extra = [e for e in errors if e["type"] == "extra_forbidden"]
        # A misspelt key is reported once, not a second time as the right key missing.
        respelt = {
            (*e["loc"][:-1], nearest(str(e["loc"][-1]), _keys(model, e["loc"]))) for e in extra
        }
        lines = [
            f"{self.where(_real(model, e['loc']))}: {_describe(model, e)}"
            for e in errors
            if not (e["type"] == "missing" and tuple(e["loc"]) in respelt)
        ]
        more = len(lines) - _SHOWN
        shown = lines[:_SHOWN] + ([f"... and {more} more errors in this file"] if more > 0 else [])
        return InvalidData("\n".join(shown))


def display(path: Path) -> str:
    """Return `path` relative to the working directory where it lies below that."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _dotted(location: Location) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "(top)"


def _line(node: yaml.Node | None, location: Location) -> int | None:
    if node is None:
        return None
    line: int = node.start_mark.line + 1
    for step in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            if step >= len(node.value):
                break
            node = node.value[step]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in node.value if k.value == step), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        else:
            break
    return line


def _models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the pydantic models that an annotation mentions, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _tagged(models: list[type[BaseModel]], tag: int | str) -> list[type[BaseModel]]:
    """Return the members of a discriminated union whose `kind` is `tag`."""
    return [
        m
        for m in models
        if "kind" in m.model_fields and tag in get_args(m.model_fields["kind"].annotation)
    ]


def _walk(
    model: type[BaseModel], location: Location
) -> tuple[list[type[BaseModel]], list[int | str]]:
    """Follow a pydantic location; return the models at its end, and it without union tags."""
    current, real = [model], list[int | str]()
    for step in location:
        fields = [m.model_fields[step] for m in current if step in m.model_fields]
        if isinstance(step, int):
            real.append(step)
        elif not fields and (tagged := _tagged(current, step)):
            current = tagged
        else:
            real.append(step)
            current = [found for field in fields for found in _models_in(field.annotation)]
    return current, real


def _keys(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that are valid beside the last step of `location`."""
    return sorted({key for m in _walk(model, location[:-1])[0] for key in m.model_fields})


def _real(model: type[BaseModel], location: Location) -> list[int | str]:
    return _walk(model, location)[1]


def _describe(model: type[BaseModel], error: Any) -> str:
    """Say in one line what is wrong with one value, and what was expected."""
    location, kind, context = error["loc"], error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(location[-1])
        return f"unknown key {key!r}. {did_you_mean(key, _keys(model, location))}"
    if kind == "missing":
        return "this key is missing, and it is required."
    expected = context.get("expected") or context.get("expected_tags")
    if kind in ("literal_error", "union_tag_invalid") and expected:
        given = context.get("tag", error["input"])
        valid = re.findall("'([^']*)'", expected)
        return f"unknown value {given!r}. {did_you_mean(str(given), valid)}"
    message = error["msg"].removeprefix("Value error, ")
    quotes = " (a version goes in quotes)" if kind == "string_type" else ""
    shown = "" if isinstance(error["input"], dict | list) else f"; it is {error['input']!r}"
    return f"{message}{shown}{quotes}."
