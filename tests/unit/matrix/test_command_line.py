"""The commands print what they promise, end with the right codes, and start fast."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import matrix
from matrix import schemas_export
from matrix.cli import check_bodies
from matrix.errors import InvalidData
from tests.unit.matrix.conftest import Data

Run = Callable[..., tuple[int, str, str]]


def test_list_prints_one_id_per_line(run: Run) -> None:
    code, out, _ = run("list", "--select", "smoke")
    assert code == 0
    assert "smollm2-135m/base/cann-8.5.0/a2" in out.splitlines()
    assert all(line.count("/") == 3 for line in out.splitlines())


def test_list_all_shows_reasons(run: Run) -> None:
    _, supported, _ = run("list")
    code, out, _ = run("list", "--all")
    assert code == 0
    assert len(out.splitlines()) > len(supported.splitlines())
    assert "qwen3/embedding/cann-9.1.0/a2\tThe model is served" in out


def test_list_json(run: Run) -> None:
    _, out, _ = run("list", "llama/base/cann-8.5.*/a2", "--json")
    assert [cell["id"] for cell in json.loads(out)] == [
        "llama/base/cann-8.5.0/a2",
        "llama/base/cann-8.5.1/a2",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("list", "nothing/*"), 2, "matches no cell"),
        (("list", "qwen3-embedding/base/*"), 5, "unsupported"),
        (("list", "--select", "nope"), 2, "no selection 'nope'"),
        (("show", "qwen3/bas/cann-9.1.0/a2"), 2, "Did you mean 'qwen3/base/cann-9.1.0/a2'?"),
    ],
)
def test_errors_and_their_codes(
    run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    got, out, err = run(*arguments)
    assert got == code
    assert message in err
    assert out == ""


def test_show_has_what_a_runner_needs(run: Run) -> None:
    code, out, _ = run("show", "qwen3/chunked-prefill/cann-9.1.0/a2", "--json")
    details = json.loads(out)["details"]
    assert code == 0
    assert details["feature"]["body"] == "tests.e2e.generation:chunked_prefill"
    assert details["hardware"]["soc"] == "Ascend910B1"
    assert details["model"]["checkpoint"]["config_class"] == "Qwen3Config"


def test_misspelt_feature_ends_with_code_2(run: Run, data: Data) -> None:
    data.replace("rules.yaml", "feature: [embedding,", "feature: [embeding,")
    code, _, err = run("--root", data.root, "check")
    assert code == 2
    assert "rules.yaml" in err
    assert "'embedding'" in err


def test_exported_schemas_are_current() -> None:
    schemas_export.check()


def test_editors_accept_the_data_and_refuse_a_misspelt_key() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    root = Path(matrix.__file__).parent
    for path in root.glob("**/*.yaml"):
        stem = path.stem if path.parent == root else path.parent.name
        schema = json.loads((root / "schemas" / f"{stem}.json").read_text())
        validator = jsonschema.Draft202012Validator(schema)
        data = yaml.safe_load(path.read_text())
        assert not list(validator.iter_errors(data)), path
        if isinstance(data[stem], dict):
            data[stem]["titel"] = "x"
        else:
            data[stem] = [{"titel": "x"}]
        assert list(validator.iter_errors(data)), path


def test_stale_schema_is_found(tmp_path: Path) -> None:
    schemas_export.write(tmp_path)
    schemas_export.check(tmp_path)
    (tmp_path / "rules.json").write_text("{}")
    with pytest.raises(InvalidData, match="python -m matrix schema"):
        schemas_export.check(tmp_path)


def test_every_file_names_its_schema() -> None:
    root = Path(matrix.__file__).parent
    for path in root.glob("**/*.yaml"):
        first = path.read_text().splitlines()[0]
        prefix = "# yaml-language-server: $schema="
        assert first.startswith(prefix), path
        assert (path.parent / first.removeprefix(prefix)).is_file(), path


def test_body_that_does_not_exist_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "e2e"
    folder.mkdir(parents=True)
    (folder / "generation.py").write_text("def bases(): ...\n")
    with pytest.raises(InvalidData, match="Did you mean 'bases'"):
        check_bodies(matrix.load(), tmp_path)


def test_matrix_imports_nothing_heavy() -> None:
    code = (
        "import sys, matrix; matrix.expand(matrix.load());"
        "print([m for m in ('torch', 'transformers', 'vllm', 'sqlalchemy', 'rich', 'numpy')"
        " if m in sys.modules])"
    )
    root = Path(matrix.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
