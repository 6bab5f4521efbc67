"""A change selects the cells that were seen to run it, says why, and never selects too little."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import matrix
from ci import changes, choosing, cli, environment, functions, learned
from ci.changes import HARMLESS, Change, Effects, Revision, area, effects
from ci.errors import UsageError
from ci.functions import REST
from ci.impact import impact
from ci.learned import Entry, Learned
from matrix import Cell
from reports.store import Store

from .conftest import make_cell

PLUGIN = "plugin/vllm_ascend/worker.py"
SOURCE = '''"""Says what it holds."""
LIMIT = 3


class Worker:
    size: int = 1

    def load(self) -> int:
        """Loads."""
        return LIMIT

    def sleep(self, level: int = 1) -> int:
        def inner() -> int:
            return level
        return inner()


def helper() -> int:
    return 1
'''

BASE, LORA, SLEEP, DUO = (
    make_cell(feature="base"),
    make_cell(feature="lora"),
    make_cell(feature="sleep-mode"),
    make_cell(feature="base", hardware="a3"),
)
CELLS = [BASE, LORA, SLEEP, DUO]
SCOPE = [BASE, LORA, SLEEP]


def hashes(path: str) -> dict[str, str]:
    return functions.hashes(SOURCE) if path == PLUGIN else {}


def ran(*names: str) -> Entry:
    known = functions.hashes(SOURCE)
    units = {(PLUGIN, name): known[name] for name in (REST, *names)}
    return Entry("0" * 40, "2026-11-20", units, frozenset({"aclnnMatmul"}))


KNOWN = Learned(
    {
        BASE.id: ran("Worker.load"),
        LORA.id: ran("Worker.load"),
        SLEEP.id: ran("Worker.load", "Worker.sleep"),
        DUO.id: ran("Worker.load", "helper"),
    }
)


def edited(old: str, new: str, path: str = PLUGIN) -> Change:
    assert old in SOURCE
    return Change(path, SOURCE, SOURCE.replace(old, new))


def selected(*changed: Change, known: Learned = KNOWN) -> dict[str, str]:
    found = effects(changed, known, CELLS, CELLS)
    return impact(found, known, hashes, CELLS, SCOPE, [BASE]).told()


# ------------------------------------------------------------------------------------- functions


def test_a_hash_sees_code_and_no_comment() -> None:
    before = functions.hashes(SOURCE)
    again = functions.hashes(SOURCE.replace("return LIMIT", "return  LIMIT  # three"))
    assert before == again
    changed = functions.hashes(SOURCE.replace("return level", "return -level"))
    assert {n for n in before if before[n] != changed[n]} == {"Worker.sleep"}


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("LIMIT = 3", "LIMIT = 4", {REST}),
        ("size: int = 1", "size: int = 2", {REST}),
        ("level: int = 1", "level: int = 2", {REST, "Worker.sleep"}),
        ("    def load", "    @property\n    def load", {REST, "Worker.load"}),
        ("return 1", "return 2", {"helper"}),
    ],
)
def test_what_runs_at_import_is_of_the_module(old: str, new: str, names: set[str]) -> None:
    before, after = functions.hashes(SOURCE), functions.hashes(SOURCE.replace(old, new))
    assert {name for name in before if before[name] != after[name]} == names


def test_lines_lead_to_functions_and_a_definition_is_no_run() -> None:
    lines = {text: number for number, text in enumerate(SOURCE.splitlines(), 1)}
    inner = lines["            return level"]
    assert functions.executed(SOURCE, [inner]) == {REST, "Worker.sleep"}
    assert functions.executed(SOURCE, [lines["    def load(self) -> int:"]]) == {REST}
    assert functions.executed(SOURCE, []) == set()


# -------------------------------------------------------------------------------------- choosing


def test_cells_that_ran_a_changed_function_are_chosen_and_told_why() -> None:
    found = selected(edited("return level", "return -level"))
    assert set(found) == {SLEEP.id}
    assert f"{PLUGIN}: Worker.sleep changed; the cell ran it" in found[SLEEP.id]


def test_every_cell_of_the_scope_that_ran_it_is_chosen() -> None:
    assert set(selected(edited("return LIMIT", "return -LIMIT"))) == {c.id for c in SCOPE}


def test_code_that_no_cell_of_the_scope_runs_brings_one_from_beyond_it() -> None:
    found = selected(edited("return 1", "return 2"))
    assert set(found) == {DUO.id}
    assert "no cell of the selection does" in found[DUO.id]


@pytest.mark.parametrize(
    "change",
    [
        Change("plugin/vllm_ascend/new.py", None, "X = 1\n"),
        Change(PLUGIN, SOURCE, None),
        edited("LIMIT = 3", "LIMIT = 4"),
        edited("def helper", "def another() -> int:\n    return 5\n\n\ndef helper"),
        Change(PLUGIN, SOURCE, "def broken(:\n"),
        Change("plugin/pyproject.toml", "a", "b"),
        Change("simulator/src/runtime/stream.cpp", "a", "b"),
        Change("constraints.txt", "a", "b"),
        Change("a-file-of-which-nobody-thought", "a", "b"),
        Change("simulator/src/operators/cost.cpp", "int x;", "int y;"),
    ],
    ids=lambda change: f"{change.path}",
)
def test_new_or_unknown_code_selects_the_whole_scope(change: Change) -> None:
    assert set(selected(change)) == {cell.id for cell in SCOPE}


def test_a_function_that_no_cell_was_seen_to_run_selects_the_whole_scope() -> None:
    known = Learned({cell.id: ran("Worker.load") for cell in CELLS})
    found = selected(edited("return 1", "return 2"), known=known)
    assert set(found) == {cell.id for cell in SCOPE}
    assert "no cell was seen to run" in found[BASE.id]


def test_a_cell_of_which_nothing_is_known_counts_as_affected() -> None:
    known = Learned({SLEEP.id: KNOWN.cells[SLEEP.id]})
    found = selected(edited("return level", "return -level"), known=known)
    assert set(found) == {cell.id for cell in SCOPE}
    assert found[LORA.id] == "what it runs was never learned"


def test_a_cell_whose_way_through_the_code_is_another_now_counts_as_affected() -> None:
    old = replace(KNOWN.cells[LORA.id], units={(PLUGIN, "Worker.load"): "before"})
    found = selected(
        edited("return level", "return -level"),
        known=Learned({**KNOWN.cells, LORA.id: old}),
    )
    assert set(found) == {SLEEP.id, LORA.id}
    assert "learned on 2026-11-20, before" in found[LORA.id]


def test_an_operator_selects_the_cells_that_launched_it() -> None:
    quiet = replace(KNOWN.cells[BASE.id], operators=frozenset({"aclnnAdd"}))
    known = Learned({**KNOWN.cells, BASE.id: quiet})
    path = "simulator/src/operators/linear.cpp"
    found = selected(
        Change(path, "OPERATOR(aclnnMatmul) {}", "OPERATOR(aclnnMatmul) {1}"), known=known
    )
    assert set(found) == {LORA.id, SLEEP.id}


def test_data_select_the_cells_that_they_define() -> None:
    now = [BASE, LORA, replace_feature(SLEEP, time_limit=99), DUO]
    found = effects([Change("matrix/features.yaml", "a", "b")], KNOWN, CELLS, now)
    told = impact(found, KNOWN, hashes, now, SCOPE, [BASE]).told()
    assert told == {SLEEP.id: "matrix: the definition of its feature changed"}


def replace_feature(cell: Cell, **what: object) -> Cell:
    return replace(cell, feature=cell.feature.model_copy(update=what))


def test_data_that_no_longer_forbid_a_cell_select_it() -> None:
    rule = matrix.load().rules[0]
    before = [BASE, replace(LORA, unsupported=rule), SLEEP, DUO]
    found = effects([Change("matrix/rules.yaml", "a", "b")], KNOWN, before, CELLS)
    assert found.cells == {LORA.id: f"matrix: the rule {rule.name} no longer holds"}


def test_data_that_cannot_be_read_select_everything() -> None:
    found = effects([Change("matrix/rules.yaml", "a", "b")], KNOWN, None, CELLS)
    assert found.whole


def test_a_change_around_the_cells_runs_a_small_selection() -> None:
    for path in ("tests/unit/ci/test_plan.py", "reports/site.py", "matrix/schemas/rules.json"):
        assert set(selected(Change(path, "a", "b"))) == {BASE.id}
    comment = edited("return LIMIT", "return LIMIT  # three")
    assert set(selected(comment)) == {BASE.id}


PATHS = st.sampled_from(
    sorted(
        path
        for path in subprocess.run(
            ["git", "ls-files"], cwd=environment.ROOT, capture_output=True, text=True
        ).stdout.splitlines()
        if not any(changes.fnmatchcase(path, pattern) for pattern in HARMLESS)
    )
    or [PLUGIN]
)
TEXTS = st.sampled_from(
    [None, "", SOURCE, *(SOURCE.replace(a, b) for a, b in (("3", "4"), ("return 1", "return 2")))]
) | st.text(max_size=20)
ENTRIES = st.dictionaries(
    st.sampled_from([cell.id for cell in CELLS]),
    st.sets(st.sampled_from(["Worker.load", "Worker.sleep", "helper"])).map(lambda s: ran(*s)),
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.builds(Change, PATHS, TEXTS, TEXTS), min_size=1, max_size=4),
    ENTRIES.map(Learned),
    st.booleans(),
)
def test_a_touched_source_file_never_yields_an_empty_plan(
    changed: list[Change], known: Learned, readable: bool
) -> None:
    found = effects(changed, known, CELLS if readable else None, CELLS)
    assert impact(found, known, hashes, CELLS, SCOPE, [BASE]).cells


@settings(deadline=None)
@given(ENTRIES.map(Learned), st.sampled_from(["Worker.load", "Worker.sleep", "helper"]))
def test_no_cell_of_the_scope_that_may_run_a_changed_function_is_left_out(
    known: Learned, name: str
) -> None:
    bodies = {"Worker.load": "return LIMIT", "Worker.sleep": "return level", "helper": "return 1"}
    change = edited(bodies[name], f"{bodies[name]} + 5")
    found = impact(effects([change], known, CELLS, CELLS), known, hashes, CELLS, SCOPE, [BASE])
    for cell in SCOPE:
        entry = known.cells.get(cell.id)
        assert (cell.id in found.cells) >= (entry is None or (PLUGIN, name) in entry.units)


# ------------------------------------------------------------------------------------------ the map


def test_a_map_is_kept_and_updated(tmp_path: Path) -> None:
    file = tmp_path / "results" / "learned.json"
    learned.save(KNOWN, file)
    assert learned.load(file) == KNOWN
    newer = replace(KNOWN.cells[BASE.id], day="2026-11-21")
    learned.save(learned.load(file).updated({BASE.id: newer}), file)
    assert learned.load(file).cells[BASE.id].day == "2026-11-21"
    assert learned.load(file).cells[LORA.id] == KNOWN.cells[LORA.id]
    assert [path.name for path in file.parent.iterdir()] == ["learned.json"]


def test_without_a_map_nothing_is_known(tmp_path: Path) -> None:
    assert learned.load(tmp_path / "none.json") == Learned()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "units": 3}'])
def test_a_broken_map_is_told_with_what_to_do(tmp_path: Path, text: str) -> None:
    file = tmp_path / "learned.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="learn anew"):
        learned.load(file)


def test_maps_of_several_machines_become_one_and_a_broken_one_stops_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, folder = tmp_path / "kept.json", tmp_path / "maps"
    newer = replace(KNOWN.cells[BASE.id], day="2026-11-21")
    learned.save(Learned({BASE.id: newer}), kept)
    learned.save(KNOWN, folder / "one" / "map.json")
    (folder / "broken.json").write_text("{")
    assert cli.main(["learned", str(folder), "--map", str(kept)]) == 2
    assert "broken.json" in capsys.readouterr().err
    assert learned.load(kept).cells == {**KNOWN.cells, BASE.id: newer}
    (folder / "broken.json").unlink()
    assert cli.main(["learned", str(folder), "--map", str(kept)]) == 0
    assert cli.main(["learned", str(tmp_path / "none"), "--map", str(tmp_path / "no.json")]) == 0
    assert not (tmp_path / "no.json").exists()


# ------------------------------------------------------------------------------------------- git


Git = Callable[..., str]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        options = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *options, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for path in (PLUGIN, "docs/page.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(SOURCE)
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path


def test_a_revision_tells_what_files_said(checkout: Path) -> None:
    (checkout / PLUGIN).write_text(SOURCE.replace("return 1", "return 2"))
    (checkout / "new.bin").write_bytes(b"\xff\xfe")
    (checkout / "docs" / "page.md").unlink()
    revision = Revision(checkout, "HEAD")
    assert revision.changed() == ["docs/page.md", "new.bin", PLUGIN]
    binary, worker = revision.changes(changes.can_affect(revision.changed()))
    assert (binary.before, binary.after) == (None, None)
    assert (worker.before, worker.after) == (SOURCE, SOURCE.replace("return 1", "return 2"))
    assert revision.matrix() is None


def test_an_unknown_revision_is_told(checkout: Path) -> None:
    with pytest.raises(UsageError, match="no-such-branch"):
        Revision(checkout, "no-such-branch")


def test_every_area_has_files() -> None:
    paths = subprocess.run(
        ["git", "ls-files"], cwd=environment.ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    areas = {area(path) for path in paths}
    assert areas == {*changes.AREAS, "everything"}
    for folder in learned.TRACED:
        assert any(path.startswith(folder) and area(path) == "functions" for path in paths)


def test_the_command_line_explains_what_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Revision, "changed", lambda _: [PLUGIN])
    monkeypatch.setattr(Revision, "changes", lambda *_: [Change(PLUGIN, "X = 1\n", "X = 2\n")])
    arguments = ["plan", "--base", "HEAD", "--map", str(tmp_path / "none.json")]
    chosen = choosing.choose(cli.parse(arguments), Store(f"sqlite:///{tmp_path}/r.sqlite"), 1)
    claims = matrix.load()
    pr = matrix.select(claims, matrix.everything(claims), (), "pr")
    assert {cell.id for cell in chosen.cells} == {cell.id for cell in pr}
    assert "warning: " in (told := capsys.readouterr().err)
    assert "none.json: nothing is known of what cells run" in told
    choosing.explain(chosen, 5)
    assert "what it does when it is imported changed" in capsys.readouterr().err
    choosing.explain(chosen)
    assert capsys.readouterr().err.count("\n") == len(pr)


def test_nothing_is_affected_by_nothing() -> None:
    assert not impact(Effects(), KNOWN, hashes, CELLS, SCOPE, []).cells
