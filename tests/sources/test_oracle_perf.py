"""perf.data against `perf script`: the same events, times, pCPUs, threads and fields.

Recordings are made here where the machine allows it; the lab and public captures are
read where they lie beside the checkout. Files that the installed perf refuses are
only read to their end.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CAPTURES

from piscope.errors import UnanswerableError
from piscope.sources.perf_bytes import open_bytes
from piscope.sources.perf_data import open_perf_data
from piscope.sources.perf_header import read_header
from piscope.sources.perf_losses import LossLog
from piscope.sources.perf_pipe import read_pipe_head
from piscope.sources.perf_stream import Extent, read_windows
from piscope.sources.raw import Wanted

pytestmark = pytest.mark.tool("perf")

LAB = sorted(CAPTURES.glob("lab/*/*.perf.data"))
PUBLIC = sorted(CAPTURES.glob("public/*.data"))
NO_TRACEPOINTS = sorted(CAPTURES.glob("public/mst/*"))

# "CPU 0/KVM   230 [001]    58.614794370: kvm:kvm_exit: vcpu 0 reason ..."
LINE = re.compile(
    r"^\s*(?P<comm>\S.*?)\s+(?P<tid>-?\d+)\s+\[(?P<cpu>\d+)\]\s+"
    r"(?P<s>\d+)\.(?P<ns>\d{9}):\s+(?P<event>\w+:\w+):\s*(?P<text>.*)$"
)
Key = tuple[int, int, int, str]


def perf_script(path: Path) -> list[tuple[Key, str, str]] | None:
    """(ts_ns, cpu, tid, event), comm and text of each event; None: perf refuses."""
    columns = "comm,tid,cpu,time,event,trace"
    done = subprocess.run(
        ["perf", "script", "--ns", "-i", path, "-G", "-F", columns],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return None
    rows = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        match = LINE.match(line)
        if match is not None:
            ts_ns = int(match["s"]) * 10**9 + int(match["ns"])
            key = (ts_ns, int(match["cpu"]), int(match["tid"]), match["event"])
            rows.append((key, match["comm"], match["text"]))
    return rows


def piscope_rows(path: Path) -> tuple[list[Key], list[dict[str, Any]], Any]:
    source = open_perf_data(path)
    keys: list[Key] = []
    fields: list[dict[str, Any]] = []
    for chunk in source.chunks(Wanted({"*": None})):
        names = [":".join(source.events[e]) for e in chunk.event]
        columns = (chunk.ts_ns.tolist(), chunk.cpu.tolist(), chunk.tid.tolist(), names)
        keys += zip(*columns, strict=True)
        rows: list[dict[str, Any]] = [{} for _ in names]
        for payload in chunk.payload.values():
            for name, column in payload.columns.items():
                values = column.tolist()
                for row, value in zip(payload.rows.tolist(), values, strict=True):
                    rows[row][name] = value
        fields += rows
    source.close()
    return keys, fields, source


def text_agrees(event: str, fields: dict[str, Any], text: str) -> bool:
    """Whether perf's text of an event says what the decoded fields say."""
    name = event.split(":")[1]
    if name == "kvm_exit":
        rip = re.search(r"rip 0x([0-9a-f]+)", text)
        assert rip is not None, text
        vcpu = re.search(r"vcpu (\d+)", text)
        info = re.search(r"intr_info 0x([0-9a-f]+)", text)
        return (
            int(rip[1], 16) == fields["guest_rip"]
            and (vcpu is None or int(vcpu[1]) == fields["vcpu_id"])
            and (info is None or int(info[1], 16) == fields["intr_info"])
        )
    if name == "kvm_entry":
        match = re.match(r"vcpu (\d+), rip 0x([0-9a-f]+)", text)
        assert match is not None, text
        return (int(match[1]), int(match[2], 16)) == (fields["vcpu_id"], fields["rip"])
    if name == "sched_switch":
        match = re.match(
            r"prev_comm=(.*) prev_pid=(\d+) .* ==> next_comm=(.*) next_pid=(\d+) ", text
        )
        assert match is not None, text
        told = (match[1], int(match[2]), match[3], int(match[4]))
        return told == (
            fields["prev_comm"].decode("utf-8", "replace"),
            fields["prev_pid"],
            fields["next_comm"].decode("utf-8", "replace"),
            fields["next_pid"],
        )
    # Text of the shape "a=1 b=0x2": every pair that names a field.
    pairs = re.findall(r"\b(\w+)=(0x[0-9a-f]+|-?\d+)\b", text)
    for key, value in pairs:
        if isinstance(fields.get(key), int):
            number = int(value, 0) if value.startswith("0x") else int(value)
            if number not in (fields[key], fields[key] & (2**64 - 1)):
                return False
    return True


def compare(path: Path) -> int:
    """Hold a file's events to perf's; returns how many there are."""
    told = perf_script(path)
    if told is None:
        pytest.skip(f"this perf does not read {path.name}")
    keys, fields, source = piscope_rows(path)
    assert source.counts == Counter(key[3] for key, _, _ in told)
    assert source.counts == Counter(key[3] for key in keys)
    assert not [loss for loss in source.losses if loss.cause != "sub-sampled"]

    # perf prints -1 for a task that has exited; the record itself tells its number.
    def without_tid(key: Key) -> tuple[int, int, str]:
        return key[0], key[1], key[3]

    exited = {without_tid(key) for key, _, _ in told if key[2] == -1}
    told = [row for row in told if without_tid(row[0]) not in exited]
    mine = [
        (key, values)
        for key, values in zip(keys, fields, strict=True)
        if without_tid(key) not in exited
    ]
    # perf script leaves some neighbors unordered; events of one key keep their order.
    told.sort(key=lambda row: row[0])
    mine.sort(key=lambda row: row[0])
    assert [key for key, _ in mine] == [key for key, _, _ in told]
    for (key, values), (_, _, text) in zip(mine, told, strict=True):
        assert text_agrees(key[3], values, text), (key, values, text)
    return len(told)


@pytest.mark.parametrize("path", LAB + PUBLIC, ids=lambda path: path.name)
def test_captures(path: Path) -> None:
    try:
        open_perf_data(path).close()
    except UnanswerableError:
        assert not perf_script(path)
        return
    assert compare(path) > 0


@pytest.mark.parametrize("path", NO_TRACEPOINTS, ids=lambda path: path.name)
def test_recordings_without_tracepoints_are_refused_by_name(path: Path) -> None:
    with pytest.raises(UnanswerableError, match=r"no tracepoint was recorded.*cycles"):
        open_perf_data(path)


# The samples that sleep.data holds in the open, and `perf script` finds in
# sleep.compressed.pipe.data; of the others this perf knows no COMPRESSED2.
SAMPLES_INSIDE = {
    "sleep.data": 7,
    "sleep.compressed.data": 8,
    "sleep.compressed.pipe.data": 8,
    "sleep.compressed2.data": 7,
    "sleep.compressed2.pipe.data": 7,
}


@pytest.mark.parametrize("name", SAMPLES_INSIDE)
def test_compressed_recordings_are_walked_to_their_end(
    name: str, public_captures: Path
) -> None:
    source = open_bytes(public_captures / "mst" / name)
    header = read_header(source)
    if header.form == "pipe":
        read_pipe_head(source, header)
    losses = LossLog()
    extent = Extent(source, header.data_offset, header.data_size, header.mark)
    kinds: Counter[int] = Counter()
    for window in read_windows(extent, losses):
        kinds.update(window.types.tolist())
    assert kinds[9] == SAMPLES_INSIDE[name]
    # What perf told on stderr lies behind the records of this one.
    junk = 1 if name == "sleep.compressed2.pipe.data" else 0
    assert [loss.cause for loss in losses.rows()] == ["damaged"] * junk
    source.close()


# What of the plain recording changes, and the words that perf's help must know for it.
FORMS = {
    "plain": ((), ()),
    "compressed": (("-z",), ("compression-level",)),
    "threads": (("--threads",), ("--threads",)),
    "threads-compressed": (("--threads", "-z"), ("--threads", "compression-level")),
    "callchains": (("-g",), ()),
    "mono": (("-k", "CLOCK_MONOTONIC"), ()),
    "no-ids-in-place": (("--no-bpf-event", "-d"), ()),
    "pipe": (("-o", "-"), ()),
    "pipe-compressed": (("-z", "-o", "-"), ("compression-level",)),
}


@pytest.fixture(scope="module")
def events() -> list[str]:
    if os.geteuid() != 0:
        pytest.skip("CAN'T RECORD: perf record -a needs root")
    if not Path("/sys/kernel/tracing/events/sched/sched_switch").is_dir():
        pytest.skip("CAN'T RECORD: no tracefs at /sys/kernel/tracing")
    names = ["sched:sched_switch", "sched:sched_wakeup", "irq:*"]
    return [word for name in names for word in ("-e", name)]


# perf needs seconds to close as many events as these.
def kvm_events() -> list[str]:
    has_kvm = Path("/sys/kernel/tracing/events/kvm").is_dir()
    return ["-e", "kvm:*"] if has_kvm else []


@pytest.mark.parametrize("form", FORMS)
def test_recorded_here(form: str, events: list[str], tmp_path: Path) -> None:
    options, needed = FORMS[form]
    if form == "plain":
        events = [*events, *kvm_events()]
    usage = subprocess.run(["perf", "record", "-h"], capture_output=True, check=False)
    if any(word.encode() not in usage.stdout + usage.stderr for word in needed):
        pytest.skip(f"this perf record does not know {' '.join(options)}")
    path = tmp_path / "perf.data"
    where = [] if "-o" in options else ["-o", str(path)]
    busy = "for i in 1 2 3 4 5 6 7 8; do sleep 0.02; done"
    with path.open("wb") if "-o" in options else Path(os.devnull).open("wb") as out:
        done = subprocess.run(
            ["perf", "record", "-a", *options, *where, *events, "--", "sh", "-c", busy],
            stdout=out, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    if done.returncode:
        pytest.skip(f"CAN'T RECORD: {done.stderr.decode()[-300:]}")
    assert compare(path) > 20
    source = open_perf_data(path)
    assert source.info.clock == ("mono" if form == "mono" else "perf")
    assert source.info.kernel_release == os.uname().release
    assert (source.info.command or "").startswith(("perf record", "/"))
    source.close()


def test_a_sub_sampled_recording_is_told(events: list[str], tmp_path: Path) -> None:
    path = tmp_path / "perf.data"
    command = ["perf", "record", "-a", "-F", "100", "-o", path, *events[:2]]
    done = subprocess.run(
        [*command, "--", "sleep", "0.2"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"CAN'T RECORD: {done.stderr.decode()[-300:]}")
    source = open_perf_data(path)
    rows = sum(len(chunk) for chunk in source.chunks(Wanted({"*": None})))
    losses = [loss for loss in source.losses if loss.cause == "sub-sampled"]
    assert len(losses) == (1 if rows else 0)
    source.close()


def test_the_sub_sampled_public_capture(public_captures: Path) -> None:
    source = open_perf_data(public_captures / "pj_7a3b2044.perf.data")
    reasons: Counter[int] = Counter()
    vectors: Counter[int] = Counter()
    for chunk in source.chunks(Wanted({"kvm_exit": ("exit_reason", "info2")})):
        for payload in chunk.payload.values():
            reason = payload.columns["exit_reason"]
            reasons.update(reason.tolist())
            vectors.update((payload.columns["info2"][reason == 1] & 0xFF).tolist())
    assert (reasons[32], reasons[1], vectors[0x8D]) == (4566, 3008, 2496)
    (loss,) = source.losses
    assert loss.cause == "sub-sampled"
    assert loss.count is not None
    assert loss.count > 100_000
    source.close()


def test_times_of_a_capture_are_not_in_file_order(public_captures: Path) -> None:
    source = open_perf_data(public_captures / "stijn_1fdfda9d.perf.data")
    (chunk,) = source.chunks(Wanted({}, others=True))
    assert (np.diff(chunk.ts_ns) >= 0).all()
    assert (np.diff(chunk.seq) < 0).any()
    source.close()


def test_lost_events_are_those_that_perf_counts(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("CAN'T RECORD: perf record -a needs root")
    path = tmp_path / "perf.data"
    words = ["perf", "record", "-a", "-m", "1", "-e", "kmem:*", "-e", "sched:*"]
    busy = "i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done"
    done = subprocess.run(
        [*words, "-o", path, "--", "sh", "-c", busy], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"CAN'T RECORD: {done.stderr.decode()[-300:]}")
    shown = subprocess.run(
        ["perf", "script", "-D", "-i", path], capture_output=True, check=True
    ).stdout.decode("utf-8", "replace")
    lost = re.findall(r"PERF_RECORD_LOST: id:\d+: lost:(\d+)", shown)
    source = open_perf_data(path)
    for _ in source.chunks(Wanted({}, others=True)):
        pass
    mine = [loss for loss in source.losses if loss.cause == "lost-record"]
    # perf dumps them as it flushes its queue, not as they lie in the file
    assert sorted(loss.count or 0 for loss in mine) == sorted(map(int, lost))
    for loss in mine:
        assert loss.cpu is not None
        assert loss.end_ns is not None
        assert loss.start_ns is None or loss.start_ns <= loss.end_ns
    source.close()
