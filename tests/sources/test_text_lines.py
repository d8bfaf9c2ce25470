"""Bytes to blocks of lines: wrappers, mail, pipes, and lines without an end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import threading
from pathlib import Path

import pytest
import zstandard

from piscope.errors import PiscopeError, UnsupportedTraceError, UsageError
from piscope.sources.text_lines import BLOCK_BYTES, MAX_LINE_BYTES, TextBytes

TEXT = b"".join(b"line %d\n" % n for n in range(1000))
WRAPPERS = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def blocks_of(data: bytes) -> bytes:
    return b"".join(block.text for block in TextBytes(io.BytesIO(data)).blocks())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_undone_by_content(wrapper: str) -> None:
    text = TextBytes(io.BytesIO(WRAPPERS[wrapper](TEXT)))
    assert b"".join(block.text for block in text.blocks()) == TEXT
    assert text.wrapper == wrapper
    assert text.losses == []


@pytest.mark.parametrize("wrapper", ["gzip", "xz"])
def test_a_cut_wrapper_gives_what_came_before(wrapper: str) -> None:
    packed = WRAPPERS[wrapper](os.urandom(200_000).hex().encode() + b"\n" + TEXT * 50)
    text = TextBytes(io.BytesIO(packed[: len(packed) * 2 // 3]))
    got = b"".join(block.text for block in text.blocks())
    assert got
    (loss,) = text.losses
    assert loss.cause == "truncated"
    assert f"{wrapper} stream broke off" in loss.detail


def test_members_follow_each_other() -> None:
    assert blocks_of(gzip.compress(b"a\n") + gzip.compress(b"b\n")) == b"a\nb\n"


def test_mail_changes_line_ends_and_blanks() -> None:
    mailed = "a\u00a0 b\r\nc\r\n".encode() + b"d\xa0e\n" + "\u0420\u00e0x\n".encode()
    assert blocks_of(mailed) == b"a  b\nc\nd e\n" + "\u0420\u00e0x\n".encode()


def test_lines_are_numbered_across_blocks() -> None:
    line = b"x" * 99 + b"\n"
    data = line * (BLOCK_BYTES // 100 * 2 + 7)
    blocks = list(TextBytes(io.BytesIO(data)).blocks())
    assert len(blocks) == 3
    assert all(block.text.endswith(b"\n") for block in blocks)
    counted = 1
    for block in blocks:
        assert block.first_line == counted
        counted += block.text.count(b"\n")
    assert b"".join(block.text for block in blocks) == data


def test_an_endless_line_is_cut() -> None:
    data = b"first\n" + b"x" * (3 * BLOCK_BYTES) + b"\nlast\n"
    first, endless, last = blocks_of(data).splitlines()
    assert (first, last) == (b"first", b"last")
    assert MAX_LINE_BYTES < len(endless) <= 2 * BLOCK_BYTES


def test_a_last_line_without_newline_says_so() -> None:
    *_, last = TextBytes(io.BytesIO(b"a\nb")).blocks()
    assert last.text == b"b\n"
    assert last.unended


def test_a_pipe_is_read_as_it_comes_and_only_once() -> None:
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb") as out:
            for at in range(0, len(TEXT), 777):
                out.write(TEXT[at : at + 777])
                out.flush()

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(read, "rb", buffering=0) as pipe:
        text = TextBytes(pipe)  # type: ignore[arg-type]
        assert b"".join(block.text for block in text.blocks()) == TEXT
        with pytest.raises(UsageError, match="only once"):
            next(text.blocks())
    thread.join()


def test_what_is_no_text() -> None:
    with pytest.raises(UnsupportedTraceError, match="UTF-16"):
        blocks_of("a\n".encode("utf-16"))
    with pytest.raises(PiscopeError, match="can't be read as text"):
        blocks_of(b"\x1f\x8b" + b"\xff" * 40)
    with pytest.raises(UsageError, match="No such file"):
        next(TextBytes(Path("/nonexistent/trace.txt")).blocks())
