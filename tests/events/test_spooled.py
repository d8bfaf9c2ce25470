"""A source without watermarks, read once: the same events again, early and in order."""

from __future__ import annotations

import shutil
from typing import Any, NamedTuple, cast

import pytest
from events.test_merge import ALL, _given, _rows, row_lists
from fake_source import FakeSource, Row
from hypothesis import given
from hypothesis import strategies as st

from piscope.errors import UsageError
from piscope.events import spooled
from piscope.events.merge import merged
from piscope.events.spooled import Spooled
from piscope.sources.raw import RawChunk, Source


def chunks_of(source: Spooled) -> list[RawChunk]:
    return list(source.chunks(ALL))


@given(row_lists, st.integers(1, 12), st.booleans(), st.integers(0, 50))
def test_the_same_events_each_time(
    rows: list[Row], chunk_rows: int, watermarks: bool, most_rows: int
) -> None:
    fake = FakeSource(rows, chunk_rows=chunk_rows, watermarks=watermarks)
    source = Spooled(fake, most_rows)
    expected = sorted(_given(rows), key=lambda r: r[:3])
    for _ in range(3):
        assert _rows(list(merged(cast(Source, source), ALL)), fake) == expected
    on_disk = not watermarks and len(rows) > most_rows
    assert fake.passes == (1 if on_disk else 3)


@given(row_lists, st.integers(1, 12), st.integers(0, 50))
def test_no_later_chunk_has_an_event_before_a_watermark(
    rows: list[Row], chunk_rows: int, most_rows: int
) -> None:
    source = Spooled(FakeSource(rows, chunk_rows=chunk_rows), most_rows)
    for _ in range(2):
        chunks = chunks_of(source)
        for i, chunk in enumerate(chunks[:-1]):
            later = [int(c.ts_ns.min()) for c in chunks[i + 1 :] if len(c)]
            assert chunk.watermark_ns == min(later)
        assert not chunks or chunks[-1].watermark_ns is None


def test_an_ordered_text_is_merged_in_pieces() -> None:
    rows: list[Row] = [(i, i % 3, 7, "kvm:kvm_entry", {"a": i}) for i in range(4 << 15)]
    source = Spooled(FakeSource(rows, chunk_rows=1 << 12), 0)
    pieces = [len(chunk) for chunk in merged(cast(Source, source), ALL)]
    assert sum(pieces) == len(rows)
    assert max(pieces) < len(rows) / 2


def test_words_keep_what_they_are() -> None:
    words: list[Any] = ["", "a\0b", "\udc80", "x" * 1000, "a\0b"]
    rows: list[Row] = [(i, 0, 1, "a:b", {"w": w}) for i, w in enumerate(words)]
    source = Spooled(FakeSource(rows, chunk_rows=2), 0)
    chunks_of(source)
    found = [
        value
        for chunk in chunks_of(source)
        for payload in chunk.payload.values()
        for value in payload.columns["w"].tolist()
    ]
    assert found == words


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100))
    assert spooled.shutil is shutil
    rows: list[Row] = [(i, 0, 1, "a:b", {}) for i in range(50)]
    with pytest.raises(UsageError, match=r"half of the free space .*: set TMPDIR"):
        chunks_of(Spooled(FakeSource(rows), 0))
