"""The GitHub commands against a GitHub on the loopback interface that checks what it is asked."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import socket
import stat
import time
import traceback
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ci import cli
from ci.errors import CiError
from ci.github import client, commands, comments
from ci.github.client import GitHub
from ci.github.errors import UnreachableError
from ci.github.token import Token
from reports.record import Chip, Failure, Record, Versions
from reports.store import Store

from . import github_server
from .github_server import LOGIN, TOKEN, Fault, State


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[State]:
    """A GitHub, and the environment of a job that talks to it; nothing may violate its description.

    The working directory is a folder of the test's own, where commands write their files.
    """
    with github_server.serve() as state:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("GH_TOKEN", raising=False)
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
        monkeypatch.delenv("ASCEND_MATRIX_STORE", raising=False)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        monkeypatch.setenv("GITHUB_API_URL", state.url)
        monkeypatch.setenv("GITHUB_REPOSITORY", state.repository)
        yield state
        assert state.violations == []


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the commands would have waited."""
    waited: list[float] = []
    monkeypatch.setattr(commands, "GitHub", functools.partial(GitHub, sleep=waited.append))
    return waited


def asked(github: State, method: str) -> list[str]:
    return [seen.path.partition("?")[0] for seen in github.seen if seen.method == method]


# ------------------------------------------------------------------------------------------ runners


def test_a_runner_is_registered_listed_and_removed(
    github: State, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["runners", "register", "fleet-simulated", "--name", "npu-1"]) == 0
    (made,) = github.runners.values()
    assert [label["name"] for label in made["labels"]] == [
        "self-hosted",
        "linux",
        "x64",
        "cannsim",
    ]
    file = tmp_path / "build" / "runners" / "npu-1.jit"
    assert file.read_text() == f"jit-secret-{made['id']}"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = capsys.readouterr()
    assert "registered npu-1" in told.out
    assert "jit-secret" not in told.out + told.err, "whoever has it gets the repository's jobs"

    made["status"] = "online"
    assert cli.main(["runners", "list"]) == 0
    out = capsys.readouterr().out
    assert "npu-1" in out
    assert "fleet-simulated" in out
    assert out.endswith("1 runner\n")
    assert "no runner is online" not in out

    assert cli.main(["runners", "remove", "npu-1"]) == 0
    assert github.runners == {}
    assert cli.main(["runners", "list", "--json"]) == 0
    out = capsys.readouterr().out.partition("\n")[2]
    assert json.loads(out) == {"runners": [], "absent": ["fleet-simulated"]}


def test_names_are_made_up_and_differ(github: State) -> None:
    for _ in range(2):
        assert cli.main(["runners", "register", "fleet-simulated"]) == 0
    names = {runner["name"] for runner in github.runners.values()}
    assert len(names) == 2
    assert all(name.startswith("fleet-simulated-") for name in names)


def test_all_pages_are_read(github: State, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(250):
        github.add_runner(f"r{i}", "self-hosted")
    assert cli.main(["runners", "list"]) == 0
    assert "250 runners" in capsys.readouterr().out
    assert len(asked(github, "GET")) == 3


def test_offline_runners_are_removed_and_busy_ones_only_by_force(
    github: State, capsys: pytest.CaptureFixture[str]
) -> None:
    github.add_runner("gone-1", "self-hosted", status="offline")
    github.add_runner("gone-2", "self-hosted", status="offline")
    busy = github.add_runner("busy", "self-hosted", busy=True)
    assert cli.main(["runners", "remove", "--offline"]) == 0
    assert [runner["name"] for runner in github.runners.values()] == ["busy"]
    assert cli.main(["runners", "remove", "--offline"]) == 5
    assert cli.main(["runners", "remove", "busy"]) == 2
    assert "runs a job" in capsys.readouterr().err
    assert cli.main(["runners", "remove", str(busy["id"]), "--force"]) == 0
    assert github.runners == {}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["register", "fleet-simulatd"], 2, "Did you mean 'fleet-simulated'?"),
        (["register", "github-hosted"], 2, "GitHub itself provides those machines"),
        (["register", "fleet-simulated", "--name", "npu-1"], 2, "name may be taken already"),
        (["register", "fleet-simulated", "--out", "there"], 2, "File exists"),
        (["remove", "npu-2"], 2, "Did you mean 'npu-1'?"),
        (["list", "--repo", "owner/other"], 2, "check the token's permissions"),
        (["list", "--repo", "../name"], 2, "no repository on GitHub"),
    ],
)
def test_bad_input(
    github: State, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    github.add_runner("npu-1", "self-hosted")
    Path("there").touch()
    assert cli.main(["runners", *arguments]) == code
    assert words in capsys.readouterr().err
    assert list(Path("build/runners").glob("*")) == [], "no configuration is left of a failure"


# ----------------------------------------------------------------------------------------- comment


def comment(text: str, *arguments: str) -> int:
    Path("text.md").write_text(text)
    return cli.main(["comment", "--pr", "7", "--file", "text.md", *arguments])


def test_a_comment_is_created_once_and_then_edited(
    github: State, capsys: pytest.CaptureFixture[str]
) -> None:
    github.page = 2
    for i in range(5):
        github.add_comment(7, f"talk {i}", login="somebody")
    for text, done in (("one", "created"), ("two", "edited"), ("two", "unchanged")):
        assert comment(text) == 0
        assert f"comment of pull request 7: {done}" in capsys.readouterr().out
    bodies = [one["body"] for one in github.comments[7]]
    assert bodies[5:] == [f"{comments.MARKER}\ntwo\n"]
    assert len(asked(github, "POST")) == len(asked(github, "PATCH")) == 1


def test_in_a_job_only_its_own_comment_is_edited(
    github: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    forged = github.add_comment(7, f"{comments.MARKER}\nall is well", login="somebody")
    github.add_comment(7, f"> {comments.MARKER}\n> quoted", login=LOGIN)
    assert comment("one") == comment("two") == 0
    assert forged["body"].endswith("all is well")
    assert [one["body"] for one in github.comments[7][2:]] == [f"{comments.MARKER}\ntwo\n"]


def test_a_comment_that_was_deleted_meanwhile_is_created_again(github: State) -> None:
    assert comment("one") == 0
    github.faults.append(Fault(404, body={"message": "Not Found"}, method="PATCH"))
    assert comment("two") == 0
    assert [one["body"] for one in github.comments[7]][-1].endswith("two\n")


@pytest.mark.parametrize(
    ("pull", "found"),
    [
        ({}, 7),
        ({"state": "closed"}, None),
        ({"head": {"sha": "b", "repo": {"full_name": "me/name"}}}, None),
        ({"head": {"sha": "a", "repo": {"full_name": "you/name"}}}, None),
        ({"head": {"sha": "a", "repo": None}}, None),
    ],
)
def test_whose_run_it_was(pull: dict[str, Any], found: int | None) -> None:
    run = {"head_sha": "a", "head_repository": {"full_name": "me/name"}}
    usual = {"number": 7, "state": "open", "head": {"sha": "a", "repo": {"full_name": "me/name"}}}
    assert comments.pull_request(run, [{**usual, **pull}]) == found
    assert comments.pull_request({**run, "head_repository": None}, [{**usual, **pull}]) is None


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_is_refused(github: State, text: str) -> None:
    assert comment(text) == 2
    assert github.seen == []


def test_a_long_text_is_cut_at_a_line() -> None:
    cut = comments.body("\n".join(["x" * 99] * 2000))
    assert len(cut) <= comments.LIMIT
    assert cut.endswith(comments.CUT)
    assert set(cut.removesuffix(comments.CUT).splitlines()[1:]) == {"x" * 99}


# ------------------------------------------------------------------------------- limits and faults


def test_a_rate_limit_is_waited_for(
    github: State, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    github.faults.append(Fault(429, {"Retry-After": "7"}, {"message": "secondary rate limit"}))
    assert cli.main(["runners", "list"]) == 0
    assert waits == [7.0]
    assert "GitHub answered 429; trying again in 7 s" in capsys.readouterr().err


def test_a_fault_is_survived(github: State, waits: list[float]) -> None:
    github.faults += [Fault(502, body="<html>"), Fault(503), Fault(0)]
    assert cli.main(["runners", "list"]) == 0
    assert waits == [1.0, 2.0, 4.0]


def test_the_primary_limit_is_told_by_its_reset(
    github: State, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def limit(seconds: int) -> Fault:
        reset = str(int(time.time()) + seconds)
        return Fault(403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})

    github.faults.append(limit(30))
    assert cli.main(["runners", "list"]) == 0
    assert 28 <= waits[0] <= 32
    github.faults.append(limit(3000))
    assert cli.main(["runners", "list"]) == 3
    assert "run the command again in 50 minutes" in capsys.readouterr().err
    assert len(waits) == 1, "nobody waits for an hour"


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("status", [502, 0])
def test_a_fault_while_a_comment_is_created_never_makes_two(
    github: State, done: bool, status: int
) -> None:
    github.faults.append(Fault(status, method="POST", done=done))
    assert comment("one") == 0
    assert len(github.comments[7]) == 1
    assert len(asked(github, "POST")) == (1 if done else 2)


@pytest.mark.parametrize("done", [True, False])
def test_a_fault_while_a_runner_is_registered_leaves_one_that_can_start(
    github: State, done: bool
) -> None:
    github.faults.append(Fault(502, method="POST", done=done))
    assert cli.main(["runners", "register", "fleet-simulated", "--name", "npu-1"]) == 0
    (number,) = github.runners
    assert Path("build/runners/npu-1.jit").read_text() == f"jit-secret-{number}"


def test_a_limit_while_something_is_created_is_waited_for(
    github: State, waits: list[float]
) -> None:
    github.faults.append(Fault(429, {"Retry-After": "3"}, method="POST"))
    assert comment("one") == 0
    assert waits == [3.0]
    assert len(github.comments[7]) == 1


def test_github_that_stays_broken(
    github: State, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    github.faults += [Fault(502)] * 9
    assert cli.main(["runners", "list"]) == 3
    assert "after 5 attempts" in capsys.readouterr().err
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_an_api_that_cannot_be_reached(
    github: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{port}")
    assert cli.main(["runners", "list"]) == 3
    told = capsys.readouterr().err
    assert f"http://127.0.0.1:{port}/repos/owner/name/actions/runners" in told
    assert "check the network and GITHUB_API_URL" in told


@pytest.mark.parametrize(
    "address", ["http://github.example", "https://me:secret@github.example", "github.example", ""]
)
def test_an_address_that_no_token_may_go_to(
    github: State, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not address:
        monkeypatch.delenv("GITHUB_API_URL")
        assert client.api_address() == "https://api.github.com"
        return
    monkeypatch.setenv("GITHUB_API_URL", address)
    assert cli.main(["runners", "list"]) == 2
    told = capsys.readouterr().err
    assert "GITHUB_API_URL" in told
    assert "secret" not in told


def test_a_next_page_elsewhere_is_not_followed(github: State) -> None:
    link = f'<{github.storage}/repos/owner/name/actions/runners?page=2>; rel="next"'
    github.faults.append(Fault(200, {"Link": link}, {"total_count": 1, "runners": []}))
    with pytest.raises(UnreachableError, match="next page is elsewhere"):
        list(GitHub("owner/name", Token(TOKEN), github.url).pages("actions/runners", "runners"))
    assert github.stored == []


def test_a_server_that_is_not_github(github: State, capsys: pytest.CaptureFixture[str]) -> None:
    github.faults.append(Fault(200, body="<html>Please log in</html>"))
    assert cli.main(["runners", "list"]) == 3
    assert "does not answer as GitHub's API: the answer is not JSON" in capsys.readouterr().err


def test_a_request_that_does_not_fit_the_description_is_noticed(github: State) -> None:
    there = GitHub("owner/name", Token(TOKEN), github.url)
    with pytest.raises(CiError):
        there.post("actions/runners/generate-jitconfig", {"name": "x", "labels": "one"})
    assert "'runner_group_id' is a required property" in github.violations.pop()


# --------------------------------------------------------------------------------------- the token


def test_without_a_token(
    github: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN")
    for command in (["runners", "list"], ["comment", "--run", "1"], ["ingest", "--run", "1"]):
        assert cli.main(command) == 2
        assert "neither GH_TOKEN nor GITHUB_TOKEN is set" in capsys.readouterr().err
    assert github.seen == []


def test_a_token_with_a_line_break_is_refused_and_not_shown(
    github: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GH_TOKEN", "first-secret\nsecond-secret")
    assert cli.main(["runners", "list"]) == 2
    told = capsys.readouterr().err
    assert "GH_TOKEN holds a space, a line break" in told
    assert "secret" not in told


def test_the_token_appears_in_no_log_no_error_and_no_address(
    github: State,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    run = github.add_run()
    github.add_artifact(run["id"], "records-001", archive({"a.json": "{}"}))
    github.faults += [Fault(429, {"Retry-After": "1"}), Fault(502), Fault(0)]
    assert cli.main(["runners", "register", "fleet-simulated", "--name", "n"]) == 0
    assert cli.main(["runners", "list"]) == 0
    assert comment("one") == 0
    assert cli.main(["ingest", "--run", str(run["id"])]) == 2
    monkeypatch.setenv("GH_TOKEN", "ghp_wrong" + TOKEN)
    assert cli.main(["runners", "list"]) == 2, "the server sends this one back in its refusal"
    told = capsys.readouterr()
    assert "Bad credentials: Bearer ***" in told.err
    assert "GET /repos/owner/name/actions/runners" in caplog.text, "something was logged at all"
    everything = caplog.text + told.out + told.err + "".join(s.path for s in github.seen)
    for secret in (TOKEN, "ghp_wrong", "jit-secret"):
        assert secret not in everything
    assert all("Authorization" not in seen.headers for seen in github.stored)
    assert github.stored, "the artifact came from elsewhere, and the token did not go there"


def test_the_token_is_in_no_traceback(github: State) -> None:
    github.faults += [Fault(0)] * 9
    there = GitHub("owner/name", Token(TOKEN), github.url, sleep=lambda _: None)
    with pytest.raises(CiError) as caught:
        there.get("actions/runners")
    # Without this test's own frame, which has the token; with what a crash reporter would add.
    shown = traceback.TracebackException(
        caught.type, caught.value, caught.tb.tb_next, capture_locals=True
    )
    assert "_send" in "".join(shown.format())
    assert TOKEN not in "".join(shown.format())
    assert "Token(***)" in repr(there._token)


# ------------------------------------------------------------------------------------------ ingest


def record(run: dict[str, Any], **changes: Any) -> Record:
    values: dict[str, Any] = {
        "cell": "tiny/base/cann-9.1.0/a2",
        "kind": "e2e",
        "verdict": "passed",
        "evidence": "simulated",
        "versions": Versions(cann="9.1.0"),
        "hardware": Chip(chip="Ascend910B1", cards=1),
        "runner": "simulated",
        "started": datetime(2026, 1, 1, tzinfo=UTC),
        "seconds": 2.5,
        "proof": {"launches": 3},
        "run_url": run["html_url"],
    }
    return Record(**{**values, **changes})


def failed(run: dict[str, Any], message: str, **changes: Any) -> Record:
    error = Failure.model_validate({"class": "GateFailed", "message": message})
    return record(run, verdict="failed", proof={}, error=error, **changes)


def outcome(*records: Record) -> str:
    return json.dumps({"cells": [{"id": r.cell, "record": r.document()} for r in records]})


def archive(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, text in files.items():
            writer.writestr(name, text)
    return packed.getvalue()


def ingest(run: dict[str, Any], *arguments: str) -> int:
    store = f"sqlite:///{Path.cwd()}/records.sqlite"
    return cli.main(["ingest", "--run", str(run["id"]), "--store", store, *arguments])


def stored() -> list[Record]:
    return list(Store(f"sqlite:///{Path.cwd()}/records.sqlite").records())


def test_records_come_out_of_the_artifacts_of_a_run_once(
    github: State, capsys: pytest.CaptureFixture[str]
) -> None:
    github.page = 2
    run = github.add_run()
    made = [record(run, seconds=float(i)) for i in range(4)]
    github.add_artifact(run["id"], "logs-001", b"no archive")
    github.add_artifact(run["id"], "records-001", archive({"e2e.json": outcome(*made[:2])}))
    github.add_artifact(
        run["id"],
        "records-002",
        archive({"one.json": made[2].to_json(), "sub/two.json": made[3].to_json(), "x.log": "x"}),
    )
    assert ingest(run) == 0
    assert sorted(r.id for r in stored()) == sorted(r.id for r in made)
    assert "4 records, 4 of them new" in capsys.readouterr().out
    assert ingest(run) == 0
    assert "4 records, 0 of them new" in capsys.readouterr().out
    assert all("Authorization" not in seen.headers for seen in github.stored)


@pytest.mark.parametrize(("event", "owner"), [("pull_request", "owner"), ("push", "somebody")])
def test_a_pull_requests_own_claims_are_not_ingested(
    github: State, event: str, owner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = github.add_run(event, owner)
    github.add_artifact(run["id"], "records-001", archive({"e2e.json": outcome(record(run))}))
    assert ingest(run) == 2
    assert "is no evidence" in capsys.readouterr().err
    assert ingest(run, "--any-run") == 0
    assert len(stored()) == 1


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"PK\x03\x04 cut off", 2, "no archive of JSON files"),
        (archive({"a.json": "{"}), 2, "not JSON"),
        (archive({"a.json": '{"schema": 99}'}), 2, "schema 99"),
        (archive({"a.json": '{"cells": [{"id": "listed"}]}'}), 2, "a cell without a record"),
        (archive({"a.json": " " * 60_000_000}), 2, "bytes once unpacked"),
        (None, 5, "no artifact records-*"),
    ],
)
def test_artifacts_that_hold_no_records(
    github: State,
    content: bytes | None,
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = github.add_run()
    if content is None:
        github.add_artifact(run["id"], "records-001", b"", expired=True)
    else:
        github.add_artifact(run["id"], "records-001", content)
    assert ingest(run) == code
    assert words in capsys.readouterr().err
    assert stored() == []


def test_an_artifact_that_is_too_large_is_not_read_to_its_end(
    github: State, capsys: pytest.CaptureFixture[str]
) -> None:
    run = github.add_run()
    github.add_artifact(run["id"], "records-001", os.urandom(200_000))
    assert ingest(run, "--max-bytes", "100000") == 2
    assert "more than 100000 bytes" in capsys.readouterr().err


def test_a_record_of_another_run_is_refused_and_the_others_are_kept(
    github: State, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = github.add_run(), github.add_run()
    files = {"a.json": outcome(record(other)), "b.json": outcome(record(run))}
    github.add_artifact(run["id"], "records-001", archive(files))
    assert ingest(run) == 2
    assert "It was copied into the artifacts" in capsys.readouterr().err
    assert [r.run_url for r in stored()] == [run["html_url"]]


def test_a_record_that_names_no_run_is_of_the_run_that_kept_it(github: State) -> None:
    run = github.add_run()
    made = record(run, run_url=None)
    github.add_artifact(run["id"], "records-001", archive({"a.json": outcome(made)}))
    assert ingest(run) == ingest(run) == 0
    assert [r.run_url for r in stored()] == [run["html_url"]]


def test_a_store_that_cannot_be_written_is_infrastructure(
    github: State, capsys: pytest.CaptureFixture[str]
) -> None:
    run = github.add_run()
    github.add_artifact(run["id"], "records-001", archive({"a.json": outcome(record(run))}))
    Path("records.sqlite").mkdir()
    assert ingest(run) == 3
    assert "records.sqlite cannot be written" in capsys.readouterr().err


# --------------------------------------------------------------------- the comment of a whole run


def test_the_comment_of_a_run_tells_what_did_not_pass(github: State) -> None:
    run = github.add_run("pull_request", "somebody")
    github.add_pull(run["head_sha"], "owner")
    number = github.add_pull(run["head_sha"], "somebody")
    lora = {"cell": "tiny/lora/cann-9.1.0/a2"}
    message = "token 3 differs |\n<b>@everybody</b> `x` ![](y)"
    records = [record(run), failed(run, message, **lora)]
    Path("results").mkdir()
    before = {"started": datetime(2025, 1, 1, tzinfo=UTC), "run_url": None, **lora}
    Store("sqlite:///results/records.sqlite").add(record(run, **before))
    github.add_artifact(run["id"], "records-001", archive({"a.json": outcome(*records)}))
    for _ in range(2):
        assert cli.main(["comment", "--run", str(run["id"])]) == 0
    (made,) = github.comments[number]
    assert made["body"].startswith(comments.MARKER)
    assert made["body"].count(comments.MARKER) == 1
    assert f"({run['html_url']})" in made["body"]
    assert "1 failed, 1 passed" in made["body"]
    assert "simulated" in made["body"]
    (row,) = [line for line in made["body"].splitlines() if "differs" in line]
    assert "tiny/lora/cann-9.1.0/a2" in row
    assert "@everybody" not in made["body"], "only the first line of a message"
    assert "passed, 2025-01-01" in row, "what it was before"


def test_a_run_without_records_says_so(github: State) -> None:
    run = github.add_run("pull_request")
    number = github.add_pull(run["head_sha"])
    assert cli.main(["comment", "--run", str(run["id"])]) == 0
    assert "No cell left a record" in github.comments[number][0]["body"]


def test_a_run_that_was_overtaken_is_not_commented(
    github: State, capsys: pytest.CaptureFixture[str]
) -> None:
    run = github.add_run("pull_request")
    github.add_pull("0" * 40)
    github.add_pull(run["head_sha"], state="closed")
    assert cli.main(["comment", "--run", str(run["id"])]) == 0
    assert "not about the newest commit" in capsys.readouterr().out
    assert github.comments == {}


def test_a_text_needs_a_pull_request(github: State) -> None:
    assert cli.main(["comment", "--file", "x.md"]) == 2
    with pytest.raises(SystemExit) as caught:
        cli.main(["comment", "--run", "1", "--file", "x.md"])
    assert caught.value.code == 2
