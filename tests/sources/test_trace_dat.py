"""trace.dat of every variant: what is written comes back, and what else files say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import trace_dat as w
from writers.ring_buffer import PageShape
from writers.trace_events import BY_NAME, POINTS, Event, Tracepoint

from piscope.sources import trace_dat_batches
from piscope.sources.raw import Wanted
from piscope.sources.trace_dat import TraceDatSource, open_trace_dat
from piscope.synth import trace_dat_file

EVERY = Wanted({"*": None})


def opened(made: w.Recording) -> TraceDatSource:
    return open_trace_dat(w.trace_dat(made))


def rows_of(source: TraceDatSource, wanted: Wanted = EVERY) -> list[Event]:
    """All events as the writer takes them, by pCPU."""
    out: dict[int, list[Event]] = defaultdict(list)
    for chunk in source.chunks(wanted):
        values: dict[int, dict[str, Any]] = defaultdict(dict)
        for payload in chunk.payload.values():
            for name, column in payload.columns.items():
                for at, row in enumerate(payload.rows.tolist()):
                    values[row][name] = column[at]
        for i in range(len(chunk)):
            out[int(chunk.cpu[i])].append(
                Event(
                    source.events[chunk.event[i]][1],
                    int(chunk.ts_ns[i]),
                    int(chunk.cpu[i]),
                    int(chunk.tid[i]),
                    values[i],
                    int(chunk.flags[i]),
                )
            )
    return [event for cpu in sorted(out) for event in out[cpu]]


def counted(source: TraceDatSource, wanted: Wanted = EVERY) -> int:
    return sum(len(chunk) for chunk in source.chunks(wanted))


# A value that a field of this declaration can hold, from a small number.
def value_for(c_type: str, name: str, n: int) -> Any:
    if c_type.startswith(("__data_loc", "__rel_loc")):
        return f"text {n}" if "char" in c_type else bytes([n % 256]) * (n % 5)
    if "[" in name:
        size = int(name.split("[")[1].rstrip("]"))
        text = f"n{n}".encode()
        return text[:size] if c_type == "char" else (text * size)[:size]
    if c_type in ("u8", "bool", "unsigned char"):
        return n % 2
    if c_type in ("short", "u16"):
        return n % 30000
    return n


def full(event: Event) -> Event:
    point = BY_NAME[event.name]
    fields = {
        name.split("[")[0]: value_for(c_type, name, event.tid)
        for c_type, name in point.fields
    }
    return Event(event.name, event.ts, event.cpu, event.tid, fields, event.flags)


def in_order(events: Sequence[Event]) -> list[Event]:
    """By pCPU, and in each by time, as a ring buffer has them."""
    return [full(e) for e in sorted(events, key=lambda e: (e.cpu, e.ts))]


events_strategy = st.lists(
    st.builds(
        Event,
        name=st.sampled_from([p.name for p in POINTS]),
        ts=st.integers(0, 1 << 40) | st.integers(10**9, 10**9 + 300),
        cpu=st.sampled_from([0, 1, 5]),
        tid=st.integers(0, 1 << 22),
        flags=st.integers(0, 255),
    ),
    min_size=1,
    max_size=40,
).map(in_order)

shapes = st.builds(
    PageShape,
    endian=st.sampled_from(["little", "big"]),
    long_size=st.sampled_from([4, 8]),
    page_size=st.sampled_from([1024, 4096, 16384]),
    stamps=st.sampled_from(["delta", "absolute", "extend"]),
    long_length=st.booleans(),
    padding=st.booleans(),
)


@settings(max_examples=120, deadline=None)
@given(
    events=events_strategy,
    shape=shapes,
    file=st.sampled_from([(6, "none"), (7, "none"), (7, "zlib"), (7, "zstd")]),
    per_page=st.sampled_from([1, 3, None]),
    zero_page=st.booleans(),
    chunk_pages=st.sampled_from([1, 3, 10]),
)
def test_what_is_written_comes_back(
    events: list[Event],
    shape: PageShape,
    file: tuple[int, w.Compressor],
    per_page: int | None,
    zero_page: bool,
    chunk_pages: int,
) -> None:
    made = w.recording(
        events,
        version=file[0],
        compressor=file[1],
        shape=shape,
        per_page=per_page,
        zero_page=zero_page,
    )
    made.page_size = min(4096, shape.page_size)
    pages_in_chunk = trace_dat_file.PAGES_IN_CHUNK
    trace_dat_file.PAGES_IN_CHUNK = chunk_pages
    try:
        source = opened(made)
    finally:
        trace_dat_file.PAGES_IN_CHUNK = pages_in_chunk
    found = [strip(e) for e in rows_of(source)]
    assert found == [strip(e) for e in events]
    assert source.losses == []
    assert sum(source.counts.values()) == len(events)
    assert source.info.cpus == tuple(sorted({e.cpu for e in events}))


# Numbers as Python's, text as bytes: what a char array gives.
def strip(event: Event) -> tuple[Any, ...]:
    fields = {}
    for name, value in event.fields.items():
        plain = int(value) if isinstance(value, np.integer) else value
        fields[name] = plain.encode() if isinstance(plain, str) else plain
    return (event.name, event.ts, event.cpu, event.tid, event.flags, fields)


def some(count: int, cpus: int = 2, start: int = 1000, step: int = 10) -> list[Event]:
    names = ("kvm_entry", "kvm_exit", "sched_switch")
    return [
        full(Event(names[i % 3], start + i * step, i % cpus, 10 + i % cpus))
        for i in range(count)
    ]


@pytest.mark.parametrize("version", [6, 7])
def test_instances_are_read_beside_the_top_buffer(version: int) -> None:
    made = w.recording(
        some(50), version=version, instances={"one": some(7), "two": some(3, cpus=1)}
    )
    source = opened(made)
    assert counted(source) == 60
    assert source.info.buffers == ("", "one", "two")
    assert source.info.host_cpus == 2
    assert source.losses == []
    seqs = np.concatenate([c.seq[c.cpu == 1] for c in source.chunks(EVERY)])
    # Of pCPU 1: 25 events of the top buffer and 3 of "one", each from 0.
    assert sorted(seqs.tolist()) == sorted([*range(25), *range(3)])


def test_an_instance_has_sub_buffers_of_its_own_size() -> None:
    made = w.recording(
        some(50),
        compressor="zstd",
        instances={"large": some(3000)},
        instance_page_size=16384,
    )
    source = opened(made)
    assert counted(source) == 3050
    assert source.losses == []


def test_only_what_is_wanted_is_given_and_all_is_counted() -> None:
    source = opened(w.recording(some(90)))
    wanted = Wanted({"kvm:kvm_exit": ("exit_reason", "no_such_field")})
    chunks = list(source.chunks(wanted))
    assert sum(map(len, chunks)) == 30
    index = source.events.index(("kvm", "kvm_exit"))
    assert {i for c in chunks for i in c.payload} == {index}
    assert list(chunks[0].payload[index].columns) == ["exit_reason"]
    assert source.counts == {
        "kvm:kvm_entry": 30,
        "kvm:kvm_exit": 30,
        "sched:sched_switch": 30,
    }
    # seq counts all events of a pCPU's buffer, wanted or not.
    assert chunks[0].seq[chunks[0].cpu == 0].tolist() == list(range(2, 45, 3))[:15]


def test_others_have_rows_without_fields_and_ignored_ones_nothing() -> None:
    source = opened(w.recording(some(90)))
    wanted = Wanted({"kvm_exit": ()}, others=True, ignore=("sched:*",))
    chunks = list(source.chunks(wanted))
    assert sum(map(len, chunks)) == 60
    assert source.counts == {"kvm:kvm_entry": 30, "kvm:kvm_exit": 30}
    for chunk in chunks:
        for payload in chunk.payload.values():
            assert payload.columns == {}


def test_times_and_pcpus_limit_rows_and_counts() -> None:
    source = opened(w.recording(some(100)))
    wanted = Wanted({"*": ()}, cpus=frozenset({1}), start_ns=1100, end_ns=1500)
    times = [int(t) for c in source.chunks(wanted) for t in c.ts_ns]
    assert times == [t for t in range(1010, 2000, 20) if 1100 <= t < 1500]
    assert sum(source.counts.values()) == len(times)


def test_a_second_pass_gives_the_same() -> None:
    source = opened(w.recording(some(3000), compressor="zlib"))
    first = [strip(e) for e in rows_of(source)]
    losses, counts = source.losses, source.counts
    assert [strip(e) for e in rows_of(source)] == first
    assert (source.losses, source.counts) == (losses, counts)


@pytest.mark.parametrize("compressor", ["none", "zstd"])
@pytest.mark.parametrize("cpus", [1, 2, 16, 256])
def test_watermarks_hold_and_little_is_held_back(
    monkeypatch: pytest.MonkeyPatch, cpus: int, compressor: w.Compressor
) -> None:
    monkeypatch.setattr(trace_dat_batches, "_BATCH_BYTES", 64 * 1024)
    rng = np.random.default_rng(cpus)
    events = []
    for cpu in range(cpus):
        # Some pCPUs have a tenth of the others' events, over the same time.
        count = 60_000 // cpus if cpu % 3 else 6000 // cpus + 2
        times = np.sort(rng.integers(0, 10**9, count))
        events += [Event("empty", int(t), cpu, 1) for t in times]
    made = w.recording(
        events, shape=PageShape(page_size=1024), compressor=compressor, cpu_count=cpus
    )
    source = opened(made)
    held: list[int] = []
    total, most, chunks, last = 0, 0, 0, -1
    for chunk in source.chunks(EVERY):
        assert chunk.watermark_ns is not None
        if len(chunk):
            assert int(chunk.ts_ns.min()) >= last
        total += len(chunk)
        held = [t for t in [*held, *chunk.ts_ns.tolist()] if t >= chunk.watermark_ns]
        most, chunks, last = max(most, len(held)), chunks + 1, chunk.watermark_ns
        for cpu in np.unique(chunk.cpu):
            assert (np.diff(chunk.ts_ns[chunk.cpu == cpu]) >= 0).all()
    assert total == len(events)
    assert held == []
    if cpus < 256:
        assert chunks > 1
        assert most < 0.3 * total


def test_times_in_each_pcpu_stay_in_order_when_a_clock_steps_back() -> None:
    events = [Event("empty", t, 0, 1) for t in (100, 200, 190, 300)]
    source = opened(w.recording(events))
    chunk = next(iter(source.chunks(EVERY)))
    assert chunk.ts_ns.tolist() == [100, 190, 200, 300]
    assert chunk.seq.tolist() == [0, 2, 1, 3]
    list(source.chunks(EVERY))
    assert source.info.notes == ["time goes back 1 times on a pCPU, by at most 10 ns"]
    assert source.losses == []


def guest_option(name: str, threads: dict[int, int]) -> bytes:
    made = w.Recording()
    out = made.z(name) + made.u("QI", 9, len(threads))
    return out + b"".join(made.u("II", vcpu, tid) for tid, vcpu in threads.items())


def test_what_a_file_says_of_itself() -> None:
    source = opened(
        w.recording(
            some(4),
            compressor="zstd",
            comms={7: "CPU 0/KVM", 8: "a b c"},
            options=[
                (w.UNAME, b"Linux box 6.17.13+deb13-amd64 x86_64\0"),
                (w.GUEST, guest_option("vm", {7: 0, 9: 1})),
                (w.TRACEID, bytes(8)),
                (26, b"an option that does not exist yet"),
                (w.TSC2NSEC, b"short"),
            ],
            cpu_count=20,
        )
    )
    info = source.info
    assert info.format == "trace.dat v7 (zstd)"
    assert info.kernel_release == "6.17.13+deb13-amd64"
    assert (info.clock, info.ts_unit) == ("local", "ns")
    assert (info.cpus, info.host_cpus) == ((0, 1), 20)
    assert info.comms == {7: "CPU 0/KVM", 8: "a b c"}
    assert info.guest_threads == {7: 0, 9: 1}
    assert info.guest_name == {7: "vm", 9: "vm"}
    assert not info.is_guest
    assert info.notes == [
        "1 options of unknown id 26 were passed over",
        "1 options of id 14 can't be understood",
    ]
    assert source.formats["kvm:kvm_exit"].field("exit_reason") is not None
    assert ("sched", "sched_switch") in source.events


@pytest.mark.parametrize(
    ("clock", "options", "unit"),
    [
        ("x86-tsc", [], "cycles"),
        ("x86-tsc", [(w.TSC2NSEC, w.Recording().u("IIQ", 3, 1, 0))], "ns"),
        ("counter", [], "counter"),
        ("uptime", [], "counter"),
        ("mono_raw", [], "ns"),
        (None, [], "ns"),
    ],
)
@pytest.mark.parametrize("version", [6, 7])
def test_clocks(
    clock: str | None, options: list[tuple[int, bytes]], unit: str, version: int
) -> None:
    source = opened(w.recording(some(4), version=version, clock=clock, options=options))
    assert source.info.ts_unit == unit
    if options:
        chunk = next(iter(source.chunks(EVERY)))
        expected = [t * 3 >> 1 for t in range(1000, 1040, 10)]
        assert sorted(chunk.ts_ns.tolist()) == expected


def test_a_cycle_counter_of_64_bits_is_multiplied_without_loss() -> None:
    ticks = (1 << 62) + 12345
    option = w.Recording().u("IIQ", 735842807, 31, 0)
    event = Event("empty", ticks, 0, 1)
    options = [(w.TSC2NSEC, option)]
    source = opened(w.recording([event], clock="x86-tsc", options=options))
    chunk = next(iter(source.chunks(EVERY)))
    assert chunk.ts_ns.tolist() == [ticks * 735842807 >> 31]


def test_sections_and_options_of_the_future_are_skipped() -> None:
    made = w.recording(some(10), compressor="zstd", options=[(99, b"x" * 300)])
    made.extra_sections = [(23, b"BTF" * 50), (25, b"modules"), (77, b"?")]
    source = opened(made)
    assert counted(source) == 10
    assert source.losses == []


def test_one_event_of_two_systems_keeps_its_system() -> None:
    points = [
        Tracepoint("kvm", "twin", 50, (("int", "a"),)),
        Tracepoint("xen", "twin", 51, (("int", "b"),)),
    ]
    events = [Event("twin", 5, 0, 1, {"a": 1, "b": 2})]
    made = w.recording(events, points=[points[1]], described=points)
    source = opened(made)
    assert counted(source, Wanted({"kvm:twin": None})) == 0
    assert counted(source, Wanted({"twin": None})) == 1
    assert source.counts == {"xen:twin": 1}
