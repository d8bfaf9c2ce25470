"""Whole texts: what is read, what is counted, what is lost, what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sources.text_reading import Row, read_text, rows_of
from writers import text as write
from writers.text import HARDIRQ, IRQS_OFF, SOFTIRQ, Event

from piscope.errors import (
    PiscopeError,
    TraceFormatError,
    UnsupportedTraceError,
    UsageError,
)
from piscope.sources.ftrace_text import TextSource, open_text
from piscope.sources.raw import Wanted


def line(ts_us: int, cpu: int = 0, name: str = "kvm_fpu: load", tid: int = 7) -> str:
    stamp = f"{ts_us // 10**6:5d}.{ts_us % 10**6:06d}"
    return f"       CPU 0/KVM-{tid:<7d} [{cpu:03d}] d..1. {stamp}: {name}\n"


def opened(text: str | bytes) -> TextSource:
    data = text.encode() if isinstance(text, str) else text
    return open_text(io.BytesIO(data))


# --- round trip: what each tool writes of a list of events

COMM = st.text(
    st.characters(
        codec="ascii", categories=["L", "N", "P", "S"], include_characters=" "
    ),
    min_size=1,
    max_size=15,
).filter(lambda comm: comm == comm.strip())
TEXTS = st.one_of(
    st.tuples(
        st.just("kvm"),
        st.just("kvm_entry"),
        st.builds(
            "vcpu {}, rip 0x{:x}".format, st.integers(0, 9), st.integers(0, 2**48)
        ),
    ),
    st.tuples(
        st.just("irq_vectors"),
        st.just("reschedule_entry"),
        st.builds("vector={}".format, st.integers(0, 255)),
    ),
    st.tuples(
        st.just("sched"),
        st.just("sched_wakeup"),
        st.builds(
            "comm={} pid={} prio=120 target_cpu=001".format, COMM, st.integers(0, 9999)
        ),
    ),
)
EVENTS = st.lists(
    st.builds(
        lambda gap, cpu, tid, comm, what, flags: (gap, cpu, tid, comm, what, flags),
        st.integers(0, 3_000_000_000),
        st.integers(0, 300),
        st.integers(0, 4_194_303),
        COMM,
        TEXTS,
        st.sampled_from([0, IRQS_OFF, HARDIRQ, IRQS_OFF | HARDIRQ | SOFTIRQ]),
    ),
    min_size=1,
    max_size=8,
).map(
    lambda rows: [
        Event(int(ts_ns), cpu, tid, comm, *what, flags=flags, tgid=tid)
        for ts_ns, (_, cpu, tid, comm, what, flags) in zip(
            np.cumsum([row[0] for row in rows]) + 500, rows, strict=True
        )
    ]
)

SHAPES = {
    "tracefs, no flags": lambda e: write.tracefs(e, flags_width=0),
    "tracefs, 4 flags": lambda e: write.tracefs(e, flags_width=4),
    "tracefs, 5 flags": write.tracefs,
    "tracefs, 7 flags": lambda e: write.tracefs(e, flags_width=7),
    "tracefs, tgid": lambda e: write.tracefs(e, tgids=True),
    "tracefs, latency-format": write.tracefs_latency,
    "report": write.report,
    "report -t": lambda e: write.report(e, digits=9),
    "report -t, flags": lambda e: write.report(e, digits=9, flags=True),
    "report, instance": lambda e: write.report(e, prefix="inst-16: "),
    "report -l": write.report_latency,
    "report, raw clock": write.report_raw_clock,
    "perf script": write.perf_script,
    "perf script --ns": lambda e: write.perf_script(e, digits=9),
    "perf script, chains": lambda e: write.perf_script(e, chain=True),
    "perf script, pid": lambda e: write.perf_script(
        e, ("comm", "pid", "tid", "cpu"), digits=9
    ),
    "perf script, no comm": lambda e: write.perf_script(e, ("tid", "cpu")),
    "perf script, no task": lambda e: write.perf_script(e, ("cpu",)),
    "perf script, no cpu": lambda e: write.perf_script(e, ("comm", "tid")),
    "perf script, times only": lambda e: write.perf_script(e, ()),
}
RESOLUTION_NS = {
    name: 1
    if any(word in name for word in ("-t", "--ns", "raw clock", "pid"))
    else 1000
    for name in SHAPES
}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=EVENTS)
def test_round_trip(shape: str, events: list[Event]) -> None:
    source, rows = read_text(SHAPES[shape](events))
    assert source.lines.events == len(events) == len(rows)
    assert source.lines.unparsed == 0
    resolution_ns = RESOLUTION_NS[shape]
    assert source.info.ts_resolution_ns == resolution_ns
    # Rounding can put events in the same microsecond; the order stays the lines'.
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    for event, row in zip(events, rows, strict=True):
        assert abs(row.ts_ns - event.ts_ns) < resolution_ns
        assert row.cpu == (-1 if "no cpu" in shape or "times" in shape else event.cpu)
        assert row.tid == (-1 if "no task" in shape or "times" in shape else event.tid)
        assert (row.system, row.name) == (event.system, event.name)
        assert row.flags == (event.flags if source.info.events_flags else 0)
        assert_fields(event, row)
    by_tid = {event.tid: event.comm for event in events}
    if "latency" in shape or shape == "report -l":
        by_tid = {tid: comm[:8].strip() for tid, comm in by_tid.items()}
    if source.info.comms:
        assert source.info.comms == by_tid
    if "tgid" in shape or "pid" in shape:
        assert source.info.tgids == {tid: tid for tid in by_tid}


def assert_fields(event: Event, row: Row) -> None:
    words = event.text.replace(",", "").split(" ")
    if event.name == "kvm_entry":
        assert row.fields["vcpu_id"] == int(words[1])
        assert row.fields["rip"] == int(words[3], 16)
    elif event.name == "reschedule_entry":
        assert row.fields == {"vector": int(event.text[7:])}
    else:
        comm, _, rest = event.text[5:].rpartition(" pid=")
        assert row.fields["comm"].decode() == comm
        assert row.fields["pid"] == int(rest.split(" ")[0])


# --- nothing but PiscopeError, and every line counted

HOSTILE = [
    "# entries-in-buffer/entries-written: 1/999999999999999999   #P:24\n",
    "CPU:1 [LOST 999999999999999999 EVENTS]\n",
    "CPU:65535 [EVENTS DROPPED]\n",
    line(5, name="kvm_exit: reason  rip 0x" + "f" * 40 + " info"),
    line(6, name="kvm_apic: apic_write = 0x"),
    line(7, name="sched_switch: prev_comm= ==> next_comm="),
    line(8, name="a: " + "k=" * 500),
    line(9, name="b: (x) " + " ".join(f"k{i}={i}" for i in range(300))),
    line(4, cpu=300),
    " => frame\n",
    "\x00\xff\n",
    "a-1 [000] 1.0: b: c\n",
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(HOSTILE).map(str.encode),
            st.builds(line, st.integers(0, 10**18)).map(str.encode),
            st.binary(max_size=60),
            st.builds(
                lambda text, at, byte: text[:at] + byte + text[at + 1 :],
                st.sampled_from(HOSTILE).map(str.encode),
                st.integers(0, 60),
                st.binary(max_size=2),
            ),
        ),
        max_size=8,
    ).map(b"".join)
)
@example(b"")
@example(b"\n")
@example(b"\xb5")
def test_any_bytes_give_rows_or_an_error(data: bytes) -> None:
    try:
        source = opened(data)
        rows = rows_of(source)
    except PiscopeError as error:
        assert str(error)
        return
    assert source.lines.total == data.count(b"\n") + (not data.endswith(b"\n"))
    for cpu in {row.cpu for row in rows}:
        times = [row.ts_ns for row in rows if row.cpu == cpu]
        assert times == sorted(times)
    assert sum(source.counts.values()) == len(rows)


def test_many_bad_lines_are_few_rows() -> None:
    text = line(1) + "".join(f"junk {i}\n" * 3 + line(i) for i in range(2, 3000))
    source, rows = read_text(text)
    assert len(rows) == 2999
    assert source.lines.unparsed == 3 * 2998
    assert len(source.losses) == 1000
    assert sum(loss.count or 0 for loss in source.losses) == 3 * 2998
    assert source.losses[-1].end_ns == 2999 * 1000


def test_many_different_names_are_bounded() -> None:
    text = "".join(line(i, name=f"event_{i}: x") for i in range(9000))
    source, rows = read_text(text)
    assert len(source.events) == len(rows) == 8192
    assert source.lines.unparsed == 9000 - 8192


# --- losses


def test_lost_events_lie_between_the_events_of_their_cpu() -> None:
    source, _ = read_text(
        line(1, cpu=0)
        + line(2, cpu=1)
        + "CPU:1 [LOST 12 EVENTS]\n"
        + line(3, cpu=0)
        + line(4, cpu=1)
        + "CPU:2 [LOST EVENTS]\n"
        + line(5, cpu=2)
        + "CPU:0 [LOST 1 EVENTS]\n"
    )
    assert [(x.cause, x.cpu, x.start_ns, x.end_ns, x.count) for x in source.losses] == [
        ("lost-record", 1, 2000, 4000, 12),
        ("lost-record", 2, None, 5000, None),
        ("lost-record", 0, 3000, None, 1),
    ]
    assert source.lines.lost == 3


def test_a_gap_may_end_in_a_later_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piscope.sources.text_lines.BLOCK_BYTES", 400)
    many = "".join(line(us, cpu=0) for us in range(2, 40))
    source, rows = read_text(
        line(1, cpu=1)
        + line(1)
        + "CPU:1 [LOST 2 EVENTS]\n"
        + many
        + "junk\njunk\n" * 40
        + line(50, cpu=1)
    )
    assert len(rows) == 41
    assert [(x.cause, x.cpu, x.start_ns, x.end_ns, x.count) for x in source.losses] == [
        ("lost-record", 1, 1000, 50_000, 2),
        ("unparsed-line", None, 39_000, 50_000, 80),
    ]
    assert "line 42 on" in source.losses[1].detail


def test_an_overwritten_buffer_reaches_to_each_cpus_first_event() -> None:
    source, _ = read_text(
        "# tracer: nop\n#\n"
        "# entries-in-buffer/entries-written: 3/10   #P:4\n"
        + line(5, cpu=0)
        + "##### CPU 1 buffer started ####\n"
        + line(8, cpu=1)
        + line(9, cpu=0)
    )
    assert [(x.cause, x.cpu, x.start_ns, x.end_ns, x.count) for x in source.losses] == [
        ("overwritten", None, None, 5000, 7),
        ("overwritten", 1, 5000, 8000, None),
    ]
    assert source.info.host_cpus == 4
    assert source.info.cpus == (0, 1)


def test_a_complete_buffer_loses_nothing() -> None:
    source, _ = read_text(
        "# entries-in-buffer/entries-written: 1/1   #P:4\n" + line(5, cpu=0)
    )
    assert source.losses == []


def test_an_unended_text_may_be_cut() -> None:
    source, rows = read_text((line(1) + line(2))[:-1])
    assert len(rows) == 2
    (loss,) = source.losses
    assert (loss.cause, loss.start_ns) == ("truncated", 2000)
    assert "line 2" in loss.detail


def test_a_too_long_line_is_not_parsed() -> None:
    source, rows = read_text(line(1) + line(2, name="a: " + "x" * 70_000) + line(3))
    assert [row.ts_ns for row in rows] == [1000, 3000]
    assert source.lines.unparsed == 1


def test_sub_sampling_is_told() -> None:
    source, _ = read_text(
        "  a  1 [000]  1.000001:   250 kvm:kvm_exit: vcpu 0 reason HLT\n"
    )
    assert "sub-sampled" in {loss.cause for loss in source.losses}


# --- order


def test_lines_out_of_order_are_sorted_and_noted() -> None:
    source, rows = read_text(line(3) + line(1) + line(2, cpu=1))
    assert [(row.ts_ns, row.seq) for row in rows] == [(1000, 2), (2000, 3), (3000, 1)]
    assert any("out of time order" in note for note in source.info.notes)


def test_cpu_after_cpu_is_no_disorder() -> None:
    # cat per_cpu/cpu*/trace
    source, rows = read_text(line(1) + line(9) + line(2, cpu=1) + line(8, cpu=1))
    assert [row.ts_ns for row in rows] == [1000, 2000, 8000, 9000]
    assert source.info.notes == []
    assert source.losses == []


def test_what_is_older_than_an_earlier_block_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("piscope.sources.text_lines.BLOCK_BYTES", 300)
    one = "".join(line(us, cpu=us % 2) for us in range(100, 140))
    older = "".join(line(us, cpu=us % 2) for us in range(90, 130))
    source, rows = read_text(one + older)
    assert [row.ts_ns for row in rows] == [us * 1000 for us in range(100, 140)]
    assert source.counts == {"kvm:kvm_fpu": 40}
    late = [loss for loss in source.losses if loss.cause == "damaged"]
    assert [(loss.cpu, loss.count) for loss in late] == [(0, 20), (1, 20)]


# --- what is wanted

MIXED = (
    line(1, cpu=0, name="kvm_entry: vcpu 0")
    + line(2, cpu=1, name="kvm_fpu: load")
    + line(3, cpu=1, name="kvm_entry: vcpu 1")
    + line(4, cpu=0, name="local_timer_entry: vector=236")
)


@pytest.mark.parametrize(
    ("wanted", "seqs", "counts"),
    [
        (Wanted({"kvm:kvm_entry": None}), [1, 3], {"kvm_entry": 2, "kvm_fpu": 1}),
        (
            Wanted({"kvm_entry": ()}, others=True),
            [1, 2, 3, 4],
            {"kvm_entry": 2, "kvm_fpu": 1},
        ),
        (Wanted({"kvm_*": None}, ignore=("kvm_fpu",)), [1, 3], {"kvm_entry": 2}),
        (
            Wanted({"*": None}, cpus=frozenset({1})),
            [2, 3],
            {"kvm_entry": 1, "kvm_fpu": 1},
        ),
        (
            Wanted({"*": None}, start_ns=2000, end_ns=4000),
            [2, 3],
            {"kvm_entry": 1, "kvm_fpu": 1},
        ),
        (Wanted({}), [], {"kvm_entry": 2, "kvm_fpu": 1}),
    ],
)
def test_wanted(wanted: Wanted, seqs: list[int], counts: dict[str, int]) -> None:
    source = opened(MIXED)
    assert [row.seq for row in rows_of(source, wanted)] == seqs
    kvm = {k.removeprefix("kvm:"): n for k, n in source.counts.items() if "kvm:" in k}
    assert kvm == counts


def test_a_path_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(MIXED)
    source = open_text(path)
    assert rows_of(source) == rows_of(source)
    assert source.info.path == str(path)
    assert source.info.size_bytes == len(MIXED)
    source.close()


def test_a_stream_can_be_read_once() -> None:
    source = opened(MIXED)
    assert len(rows_of(source)) == 4
    with pytest.raises(UsageError, match="only once"):
        rows_of(source)


def test_events_keep_their_numbers_while_the_text_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("piscope.sources.text_lines.BLOCK_BYTES", 80)
    source = opened(MIXED)
    seen: list[list[tuple[str, str]]] = []
    for chunk in source.chunks(Wanted({"*": None})):
        seen.append(list(source.events))
        assert int(chunk.event.max()) < len(source.events)
    assert len(seen) > 1
    assert all(source.events[: len(events)] == events for events in seen)


# --- what the text says of itself


def test_what_a_perf_header_tells() -> None:
    source, _ = read_text(
        "# ========\n# os release : 6.17.13+deb13-amd64\n"
        "# cmdline : /bin/perf record -a -e kvm:*\n"
        "  a  1 [000]  1.000001: kvm:kvm_fpu: load\n"
    )
    assert source.info.kernel_release == "6.17.13+deb13-amd64"
    assert source.info.command == "/bin/perf record -a -e kvm:*"
    assert source.info.format == "perf script text (no flags)"
    assert not source.info.events_flags


def test_bare_numbers_are_no_nanoseconds() -> None:
    source, rows = read_text("  a-1  [000] d..1. 303280081944169: kvm_fpu: load\n")
    assert rows[0].ts_ns == 303280081944169
    assert source.info.ts_unit == "cycles"
    assert any("not nanoseconds" in note for note in source.info.notes)


def test_missing_columns_are_noted() -> None:
    source, _ = read_text(" 220.696238: kvm_entry: vcpu 0, rip 0x406a89\n")
    assert source.info.cpus == ()
    assert sum("(cpu is -1)" in note or "(tid is -1)" in note
               for note in source.info.notes) == 2  # fmt: skip


def test_buffers_of_a_report_are_named() -> None:
    source, rows = read_text(
        "cpus=2\n"
        "inst16:    a-12 [001]    62.787033: kvm_entry:             vcpu 0 rip 0x1\n"
        "           b-13 [000]    62.787034: kvm_entry:             vcpu 0 rip 0x1\n"
    )
    assert len(rows) == 2
    assert source.info.buffers == ("inst16",)
    assert any("several buffers" in note for note in source.info.notes)


# --- refusals, each with its place


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", TraceFormatError, "is empty; expected"),
        ("# tracer: nop\n#\n", TraceFormatError, "holds no event; expected"),
        (
            "\n#include <stdio.h>\nint main(void);\n",
            TraceFormatError,
            "line 3: not a trace line: 'int main(void);'; expected the lines of",
        ),
        (
            "2024-01-01 10:00:00.01  CPU 0/KVM 12 d..1. [001] 1.0: kvm:kvm_exit: x\n",
            TraceFormatError,
            "line 1: not a trace line: '2024-01-01",
        ),
        (
            "            perf   228 [000]    52.699399: comm=a pid=19\n",
            TraceFormatError,
            "without event names",
        ),
        (
            "[000]            kvm:kvm_entry: vcpu 0, rip 0x10276\n",
            TraceFormatError,
            "without times",
        ),
        (
            "cpus=20\n qemu-system-533825 [005]-0x1303280081900681: kvm_entry:  a=1\n",
            UnsupportedTraceError,
            "line 2: a raw report (-R) of a raw clock",
        ),
    ],
)
def test_refusals(text: str, kind: type[PiscopeError], message: str) -> None:
    with pytest.raises(kind) as caught:
        opened(text)
    assert message in str(caught.value)
