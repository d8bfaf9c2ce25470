"""A trace is known by its bytes, in whatever it is wrapped, and by nothing else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from writers import perf_data as w

from piscope.errors import PiscopeError, TraceFormatError
from piscope.sources import detect, open_trace
from piscope.sources.raw import Wanted

EVENT = w.Event("kvm", "kvm_exit", 7, (("unsigned int", "exit_reason", 4, False),))
WRITER = w.Writer([EVENT])
RECORDS = WRITER.records([w.Sample("kvm:kvm_exit", 5 + i, 0, 7) for i in range(3)])
TEXT = (
    b"# tracer: nop\n#\n"
    b"       CPU 0/KVM-4711    [003] d..1.    12.345678: kvm_exit: vcpu 0 reason HLT"
    b" rip 0x1000 info1 0x0 info2 0x0 intr_info 0x0 error_code 0x0\n"
) * 3


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """One trace of each kind, with three events each but for the trace.dat."""
    samples = Path(__file__).resolve().parents[2] / "sample_traces"
    dats = sorted(samples.glob("*c_svm_min.trace.dat"))
    kinds = {"perf": WRITER.file(RECORDS), "perf-pipe": WRITER.pipe(RECORDS)}
    kinds["text"] = TEXT
    if dats:
        kinds["trace.dat"] = dats[0].read_bytes()
    return kinds


KINDS = {"perf": "perf.data", "perf-pipe": "perf.data", "text": "text"}
KINDS["trace.dat"] = "trace.dat"
WRAPPERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "bzip2": bz2.compress,
}


def read(path: str) -> tuple[str, int, Any]:
    """Kind, events and source of a trace."""
    source = open_trace(path)
    events = sum(len(c) for c in source.chunks(Wanted({}, others=True)))
    source.close()
    return source.info.kind, events, source


class Pipe(io.RawIOBase):
    """Bytes that come once, a few at a time."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        part = self._rest.read(min(len(room), 333))
        room[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("way", ["file", "stdin", "pipe"])
def test_each_kind_in_each_wrapper(
    kind: str,
    wrapper: str,
    way: str,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind not in whole:
        pytest.skip("no trace.dat among the samples")
    data = WRAPPERS[wrapper](whole[kind])
    path = tmp_path / "named.parquet"  # a name says nothing
    path.write_bytes(data)
    name = str(path)
    if way != "file":
        name = "-"
        stream = Pipe(data) if way == "pipe" else path.open("rb")
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    found, events, source = read(name)
    assert found == KINDS[kind]
    assert events == 3 if kind != "trace.dat" else events > 100
    assert source.info.path == ("<stdin>" if name == "-" else name)


def test_a_named_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(WRITER.pipe(RECORDS),))
    writer.start()
    kind, events, _ = read(str(path))
    writer.join()
    assert (kind, events) == ("perf.data", 3)


def test_a_directory_of_perf_record(tmp_path: Path) -> None:
    WRITER.directory(tmp_path / "any", WRITER.round(), [RECORDS])
    assert read(str(tmp_path / "any"))[:2] == ("perf.data", 3)


@pytest.mark.parametrize("wrapper", ["gzip", "xz", "zstd"])
def test_a_cut_wrapper_gives_what_can_be_had(wrapper: str, tmp_path: Path) -> None:
    # Records that do not compress, so that most of them lie before the cut.
    samples = [w.Sample("kvm:kvm_exit", i * 7919 % 99991, 0, i) for i in range(20000)]
    data = WRITER.pipe(WRITER.records(samples))
    path = tmp_path / "cut"
    packed = WRAPPERS[wrapper](data)
    path.write_bytes(packed[: len(packed) * 9 // 10])
    _, events, source = read(str(path))
    assert 0 < events < 20000
    assert any(loss.cause == "truncated" for loss in source.losses)


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"", "empty"),
        (b"\x7fELF\x02\x01\x01" + bytes(99), "an ELF program"),
        (b"PK\x03\x04" + bytes(99), "a zip archive"),
        (b"PAR1" + bytes(99), "a Parquet file"),
        (b"\xd4\xc3\xb2\xa1" + bytes(99), "a pcap capture"),
        (b"\x0a\x0d\x0d\x0a" + bytes(99), "a pcapng capture"),
        (b"\x57\x1d\xd1\x75" + bytes(99), "the metadata of a CTF trace"),
        (b"/* CTF 1.8 */\ntypealias integer {", "the metadata of a CTF trace"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG image"),
        (b"./file".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
        (b"\x01\x02\x03\x00\x04", "binary data that begin with 01 02 03 00 04"),
        # a fixed time: the test's name is made of these bytes, the same in each worker
        (
            gzip.compress(b"PAR1" + bytes(99), mtime=0),
            "compressed data of a Parquet file",
        ),
    ],
)
def test_foreign_files_are_named(data: bytes, looks_like: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(data)
    with pytest.raises(TraceFormatError) as caught:
        open_trace(str(path))
    message = str(caught.value)
    assert looks_like in message
    assert message.startswith(str(path))
    assert "expected a trace.dat, a perf.data, or the text" in message
    assert "\n" not in message


def test_paths_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "metadata").write_bytes(b"")
    for path, why in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "CTF trace"),
        (tmp_path / "metadata" / "x", "Not a directory"),
        ("bad\0name", "null"),
    ):
        with pytest.raises(PiscopeError, match=why):
            open_trace(path)


def test_a_compressed_trace_is_not_unpacked_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "_MAX_SPOOL_BYTES", 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(WRITER.file(RECORDS) + bytes(8 << 20)))
    with pytest.raises(PiscopeError, match="more than 1 MiB"):
        open_trace(str(path))
