"""Text of others is cleaned once and for all, and only the end of a long log is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.text import cut, is_storable_json, plain, storable, tail

SEQUENCES = st.sampled_from(
    ["\x1b[31m", "\x1b]0;t\x07", "\x1b", "\x9b", "[", "m", "\0", "\r", "\n"]
)
TEXTS = st.lists(SEQUENCES | st.text(max_size=4), max_size=20).map("".join)


@given(TEXTS)
def test_plain_text_can_be_stored_and_stays(text: str) -> None:
    clean = plain(text)
    assert plain(clean) == clean
    assert storable(clean) == clean
    clean.encode()
    assert not set(clean) & {chr(n) for n in range(32)} - {"\t", "\n"}


PARTS = TEXTS | st.integers() | st.lists(TEXTS, max_size=2)


@given(st.dictionaries(TEXTS, PARTS, max_size=2))
def test_storable_needs_no_second_time(value: object) -> None:
    clean = storable(value)
    assert storable(clean) == clean
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        if is_storable_json(text):
            assert storable(json.loads(text)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[1;31mb\x1b[0mc", "abc"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("10%\r20%\r\n", "10%\n20%\n"),
        ("\x1b]0;never ends", "0;never ends"),
        ("evil\u202etxt.exe", "evil\ufffdtxt.exe"),
        ("tab\tand 中文 é", "tab\tand 中文 é"),
    ],
)
def test_plain(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_cut_keeps_the_end_and_says_so() -> None:
    text = "".join(f"line {n}\n" for n in range(1000))
    short = cut(text, 200)
    assert len(short) == 200
    assert short.startswith(f"[the end of {len(text):,} characters")
    assert text.endswith(short.partition("\n")[2])
    assert cut(short, 200) == short
    assert cut("short", 200) == "short"


def test_tail_of_a_gigabyte(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    os.truncate(log, 2**30)  # takes no space
    with log.open("ab") as file:
        file.write(b"\nlast \xff line\n")
    assert tail(log, 30) == "last \ufffd line\n"
    assert tail(tmp_path / "none", 30) == ""
    (tmp_path / "short").write_text("a\nb")
    assert tail(tmp_path / "short", 30) == "a\nb"
