"""perf.data read back: each form, each layout, and what each file lacks."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from writers import perf_data as w

from piscope.errors import TraceFormatError, UnanswerableError, UnsupportedTraceError
from piscope.sources import perf_order, perf_schedule
from piscope.sources.perf_data import PerfDataSource, open_perf_data
from piscope.sources.raw import Loss, Wanted

EXIT = w.Event(
    "kvm",
    "kvm_exit",
    1594,
    (
        ("unsigned int", "exit_reason", 4, False),
        ("unsigned long", "guest_rip", 8, False),
        ("u32", "intr_info", 4, False),
    ),
)
SWITCH = w.Event(
    "sched",
    "sched_switch",
    305,
    (
        ("char", "prev_comm[16]", 16, False),
        ("pid_t", "prev_pid", 4, True),
        ("long", "prev_state", 8, True),
        ("__data_loc char[]", "why", 4, False),
    ),
)
ALL = Wanted({"*": None})
Row = tuple[int, int, int, int, str, dict[str, Any]]


def exit_at(ts_ns: int, cpu: int = 0, tid: int = 7, **more: Any) -> w.Sample:
    fields = {"exit_reason": ts_ns % 60, "guest_rip": 1 << 63 | ts_ns, "intr_info": 9}
    return w.Sample("kvm:kvm_exit", ts_ns, cpu, tid, fields, **more)


def switch_at(ts_ns: int, cpu: int = 0, tid: int = 7, **more: Any) -> w.Sample:
    fields = {"prev_comm": b"CPU 0/KVM", "prev_pid": tid, "prev_state": -1, "why": "é"}
    return w.Sample("sched:sched_switch", ts_ns, cpu, tid, fields, **more)


def a_mix(count: int = 40) -> list[w.Sample]:
    """Both events on two pCPUs, later ones of pCPU 1 before earlier ones of 0."""
    samples = []
    for i in range(0, count, 4):
        samples += [exit_at(10 * i + 25, 1, 8), switch_at(10 * i + 35, 1, 8, flags=1)]
        samples += [exit_at(10 * i + 5, 0), switch_at(10 * i + 15, 0, flags=9)]
    return samples


def rows_of(source: PerfDataSource, wanted: Wanted = ALL) -> list[Row]:
    """ts_ns, cpu, tid, flags, event, fields of every row; checks the time order."""
    rows: list[Row] = []
    watermark = 0
    for chunk in source.chunks(wanted):
        fields: list[dict[str, Any]] = [{} for _ in range(len(chunk))]
        for payload in chunk.payload.values():
            for name, column in payload.columns.items():
                valid = payload.valid.get(name)
                for i, row in enumerate(payload.rows.tolist()):
                    if valid is None or valid[i]:
                        fields[row][name] = column[i]
        for i in range(len(chunk)):
            assert chunk.ts_ns[i] >= watermark
            rows.append(
                (
                    int(chunk.ts_ns[i]),
                    int(chunk.cpu[i]),
                    int(chunk.tid[i]),
                    int(chunk.flags[i]),
                    ":".join(source.events[chunk.event[i]]),
                    fields[i],
                )
            )
        watermark = chunk.watermark_ns or 0
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    return rows


def expected(samples: list[w.Sample]) -> list[Row]:
    ordered = sorted(samples, key=lambda s: s.ts_ns)
    return [(s.ts_ns, s.cpu, s.tid, s.flags, s.event, dict(s.fields)) for s in ordered]


def opened(data: bytes) -> PerfDataSource:
    return open_perf_data(io.BytesIO(data))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of about one record's greatest size, and flushes of a few rows."""
    monkeypatch.setattr(perf_schedule, "WINDOW_BYTES", 1 << 10)
    monkeypatch.setattr(perf_order, "_FLUSH_ROWS", 100)


class _Pipe(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        part = self._rest.read(min(len(room), 700))
        room[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("form", ["file", "pipe", "stream"])
@pytest.mark.parametrize("packed", [None, w.COMPRESSED, w.COMPRESSED2])
def test_each_form_gives_the_same_events(order: Any, form: str, packed: int) -> None:
    writer = w.Writer([EXIT, SWITCH], order)
    samples = a_mix()
    records = writer.records(samples, rounds_every=4)
    if packed is not None:
        records = writer.compressed(records, piece_bytes=301, kind=packed)
    if form == "file":
        source = opened(writer.file(records))
    elif form == "pipe":
        source = opened(writer.pipe(records))
    else:
        source = open_perf_data(_Pipe(writer.pipe(records)))  # type: ignore[arg-type]
    assert rows_of(source) == expected(samples)
    assert source.counts == {"kvm:kvm_exit": 20, "sched:sched_switch": 20}
    assert source.losses == []
    assert source.info.cpus == (0, 1)
    assert source.info.kernel_release == "6.12.0"
    assert source.info.command == "perf record"
    assert source.info.host_cpus == 4
    assert source.info.clock == "perf"


def test_a_directory_of_streams_is_merged(tmp_path: Path) -> None:
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix()
    streams = [
        writer.records([s for s in samples if s.cpu == 0]),
        writer.compressed(writer.records([s for s in samples if s.cpu == 1])),
    ]
    writer.directory(tmp_path / "perf.data", writer.comm(7, 7, "vcpu"), streams)
    source = open_perf_data(tmp_path / "perf.data")
    assert rows_of(source) == expected(samples)
    assert source.info.format == "perf.data (directory)"
    assert source.info.comms[7] == "vcpu"
    source.close()


def test_streams_too_large_to_hold_are_merged_by_their_oldest_times(
    tmp_path: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf_schedule, "_SMALL_BYTES", 0)
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix(4000)
    streams = [writer.records([s for s in samples if s.cpu == cpu]) for cpu in range(2)]
    writer.directory(tmp_path / "perf.data", writer.round(), streams)
    source = open_perf_data(tmp_path / "perf.data")
    chunks = [c for c in source.chunks(ALL) if c.watermark_ns is not None]
    assert len(chunks) > 2, "nothing was given before the end"
    assert rows_of(source) == expected(samples)
    source.close()


def test_without_rounds_the_oldest_times_bound_what_is_held(
    small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf_schedule, "_MAX_HELD_ROWS", 500)
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix(8000)
    source = opened(writer.file(writer.records(samples)))
    assert len([c for c in source.chunks(ALL) if c.watermark_ns is not None]) > 2
    assert rows_of(source) == expected(samples)


def test_rounds_give_events_before_the_end(small_windows: None) -> None:
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix(12000)
    source = opened(writer.file(writer.records(samples, rounds_every=400)))
    marks = [c.watermark_ns for c in source.chunks(ALL)]
    assert len([m for m in marks if m is not None]) > 1
    assert rows_of(source) == expected(samples)


def test_an_event_older_than_a_finished_round_is_counted_as_lost(
    small_windows: None,
) -> None:
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix(12000)
    late = exit_at(3)
    source = opened(writer.file(writer.records([*samples, late], rounds_every=400)))
    assert rows_of(source) == expected(samples)
    (loss,) = source.losses
    assert (loss.cause, loss.count) == ("damaged", 1)


def test_one_time_thrown_far_ahead_does_not_make_all_others_late(
    small_windows: None,
) -> None:
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix(12000)
    samples[1001] = dataclasses.replace(samples[1001], ts_ns=1 << 50)
    source = opened(writer.file(writer.records(samples, rounds_every=400)))
    assert rows_of(source) == expected(samples)
    assert source.losses == []


def test_long_flushes_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_order, "CHUNK_ROWS", 7)
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix()
    source = opened(writer.file(writer.records(samples)))
    assert [len(c) for c in source.chunks(ALL)] == [7, 7, 7, 7, 7, 5]
    assert rows_of(source) == expected(samples)


@pytest.mark.parametrize(
    ("sample_type", "read_format"),
    [
        (w.TIME | w.CPU | w.RAW, 0),
        (w.PLAIN | w.CALLCHAIN, 0),
        (w.PLAIN | w.READ, 0),
        (w.PLAIN | w.READ, 1 | 2 | 4 | 16),
        (w.PLAIN | w.READ, 1 | 2 | 4 | 8 | 16),
        (w.PLAIN | w.READ | w.CALLCHAIN, 4 | 8),
        (w.PLAIN | w.ADDR | w.ID | w.STREAM_ID | w.CALLCHAIN | w.BRANCH_STACK, 0),
    ],
)
@pytest.mark.parametrize("order", ["little", "big"])
def test_what_lies_before_the_record(
    order: Any, sample_type: int, read_format: int
) -> None:
    kinds = {"sample_type": sample_type, "read_format": read_format}
    events = [dataclasses.replace(e, **kinds) for e in (EXIT, SWITCH)]
    samples = [
        dataclasses.replace(s, callchain=tuple(range(i % 5)), read_members=1 + i % 3)
        for i, s in enumerate(a_mix())
    ]
    writer = w.Writer(events, order)
    assert rows_of(opened(writer.file(writer.records(samples)))) == expected(samples)


@pytest.mark.parametrize(
    "other",
    [
        w.PLAIN | w.CALLCHAIN,  # told by IDENTIFIER
        w.PLAIN & ~w.IDENTIFIER | w.CALLCHAIN,  # one attr without: told by the shape
    ],
)
def test_attrs_that_differ_in_their_layout(other: int) -> None:
    events = [EXIT, dataclasses.replace(SWITCH, sample_type=other)]
    samples = [dataclasses.replace(s, callchain=(1, 2, 3)) for s in a_mix()]
    writer = w.Writer(events)
    assert rows_of(opened(writer.file(writer.records(samples)))) == expected(samples)


def test_samples_of_other_than_tracepoints_are_passed_over() -> None:
    kinds = w.PLAIN & ~w.RAW
    cycles = w.Event("cpu", "cycles", 9, (), kinds, freq=True, tracepoint=False)
    writer = w.Writer([EXIT, SWITCH, cycles])
    noise = [w.Sample("cpu:cycles", t, 0, 7) for t in range(3)]
    source = opened(writer.file(writer.records([*noise, *a_mix()])))
    assert rows_of(source) == expected(a_mix())
    assert source.info.notes == ["3 samples of other than tracepoint events not read"]


def test_only_what_is_wanted_is_given_and_counted() -> None:
    writer = w.Writer([EXIT, SWITCH])
    source = opened(writer.file(writer.records(a_mix())))
    wanted = Wanted(
        {"kvm_exit": ("exit_reason", "no_such_field")},
        cpus=frozenset({1}),
        start_ns=100,
        end_ns=300,
    )
    rows = rows_of(source, wanted)
    assert {row[4] for row in rows} == {"kvm:kvm_exit"}
    assert all(row[1] == 1 and 100 <= row[0] < 300 for row in rows)
    assert all(set(row[5]) == {"exit_reason"} for row in rows)
    assert source.counts == {"kvm:kvm_exit": 5, "sched:sched_switch": 5}
    rows = rows_of(source, Wanted({}, others=True, ignore=("sched:*",)))
    assert [row[5] for row in rows] == [{}] * 20
    assert source.counts == {"kvm:kvm_exit": 20}


def test_a_record_too_short_for_a_field_leaves_it_out() -> None:
    writer = w.Writer([EXIT])
    whole = exit_at(5)
    # 28 bytes of record, and perf's padding to 4 mod 8: cut to 16 + 4.
    source = opened(writer.file(writer.records([whole, exit_at(6, tail=12)])))
    rows = rows_of(source)
    assert rows[0][5] == dict(whole.fields)
    assert "exit_reason" in rows[1][5]
    assert "intr_info" not in rows[1][5]


def test_names_and_groups_of_threads() -> None:
    writer = w.Writer([EXIT])
    records = (
        writer.comm(7, 7, "qemu")
        + writer.fork(7, 7, 8, 7)
        + writer.fork(7, 7, 9, 7)
        + writer.comm(7, 9, "CPU 0/KVM")
        + writer.records([exit_at(5, tid=11, pid=10)])
    )
    source = opened(writer.file(records, comms={12: "kworker/0:1 x", 7: "old"}))
    assert len(rows_of(source)) == 1
    comms = source.info.comms
    assert (comms[7], comms[8], comms[9]) == ("qemu", "qemu", "CPU 0/KVM")
    assert (comms[12], comms[0]) == ("kworker/0:1 x", "swapper")
    assert source.info.tgids == {7: 7, 8: 7, 9: 7, 11: 10}


def test_lost_events_lie_between_the_events_around_them() -> None:
    writer = w.Writer([EXIT])
    records = (
        writer.records([exit_at(100, 1), exit_at(150, 0)])
        + writer.lost(42, 200, 1)
        + writer.records([exit_at(200, 1)])
        + writer.lost_samples(3, 250, 1)
        + writer.lost_samples(50)  # 42 of them are those of the LOST record
        + writer.throttle(300, 0)
        + writer.throttle(400, 0, end=True)
    )
    source = opened(writer.file(records))
    assert len(rows_of(source)) == 3
    told = [(x.cause, x.cpu, x.start_ns, x.end_ns, x.count) for x in source.losses]
    assert told == [
        ("lost-record", 1, 100, 200, 42),
        ("lost-samples", 1, 200, 250, 3),
        ("lost-samples", 0, 300, 400, None),
        ("lost-samples", None, None, None, 8),
    ]
    assert source.info.notes == ["lost events by perf's own count: 50 of kvm:kvm_exit"]


def test_many_losses_are_few_rows() -> None:
    writer = w.Writer([EXIT])
    records = b"".join(writer.lost(2, 10 * i, 0) for i in range(3000))
    source = opened(writer.file(records + writer.records([exit_at(99999)])))
    assert len(rows_of(source)) == 1
    assert len(source.losses) < 1100
    assert sum(loss.count or 0 for loss in source.losses) == 6000
    assert source.losses[-1].end_ns == 29990


@pytest.mark.parametrize(
    ("change", "periods", "told"),
    [
        ({}, (1, 1), None),
        ({"period": 100}, (1, 1), None),  # -c 100, yet a sample for each event
        ({"freq": True, "period": 1000}, (1, 40), (39, "-F 1000")),
        ({"freq": True, "period": 1000}, (1, 1), (0, "-F 1000")),
        ({"period": 10, "sample_type": w.PLAIN & ~w.PERIOD}, (1, 1), (18, "-c 10")),
        ({}, (1, 3), (2, "PERIOD")),
        ({"name": "sched_stat_runtime"}, (70000, 1), None),
    ],
)
def test_sub_sampling_is_told(
    change: dict[str, Any], periods: tuple[int, int], told: tuple[int, str] | None
) -> None:
    event = dataclasses.replace(EXIT, **change)
    key = f"kvm:{event.name}"
    samples = [
        dataclasses.replace(exit_at(i), event=key, period=period)
        for i, period in enumerate(periods)
    ]
    writer = w.Writer([event])
    source = opened(writer.file(writer.records(samples)))
    assert len(rows_of(source)) == 2
    if told is None:
        assert source.losses == []
    else:
        (loss,) = source.losses
        assert (loss.cause, loss.count) == ("sub-sampled", told[0])
        assert told[1] in loss.detail


def test_aux_area_data_is_passed_over() -> None:
    writer = w.Writer([EXIT])
    fake = writer.records([exit_at(1)])  # looks like a record, but is data
    records = writer.records([exit_at(5)])
    records += writer.auxtrace(fake * 9) + writer.auxtrace(b"") + writer.auxtrace(fake)
    records += writer.records([exit_at(6)])
    source = opened(writer.file(records))
    assert [row[0] for row in rows_of(source)] == [5, 6]
    assert source.losses == []


def test_records_of_unknown_types_are_passed_over() -> None:
    writer = w.Writer([EXIT])
    records = writer.record(99, bytes(48)) + writer.records([exit_at(5)])
    records += writer.record(21, b"x" * 13) + writer.records([exit_at(6)])
    source = opened(writer.file(records))
    assert [row[0] for row in rows_of(source)] == [5, 6]
    assert source.losses == []


def test_damage_in_the_middle_costs_only_itself() -> None:
    writer = w.Writer([EXIT, SWITCH])
    samples = a_mix(400)
    parts = [writer.sample(s) for s in samples]
    parts[100] = bytes(len(parts[100]))  # a zeroed record
    parts[200] = parts[200][:6] + b"\x04\x00" + parts[200][8:]  # of size 4
    source = opened(writer.file(b"".join(parts)))
    del samples[200], samples[100]
    assert rows_of(source) == expected(samples)
    offset = 104 + 2 * 32 + 2 * 144 + sum(map(len, parts[:100]))
    assert [loss.cause for loss in source.losses] == ["damaged"] * 2
    detail = source.losses[0].detail
    assert detail == f"byte {offset}: {len(parts[100])} bytes that are no record"


def test_text_at_the_end_of_a_pipe_is_not_read_as_records() -> None:
    writer = w.Writer([EXIT])
    junk = b"[ perf record: Woken up 1 times to write data ]\n" * 3
    source = opened(writer.pipe(writer.records([exit_at(5)]) + junk))
    assert len(rows_of(source)) == 1
    (loss,) = source.losses
    assert loss.cause == "damaged"
    assert "no record from here on" in loss.detail


def test_a_cut_pipe_gives_all_whole_records() -> None:
    writer = w.Writer([EXIT])
    last = writer.sample(exit_at(6))
    data = writer.pipe(writer.records([exit_at(5)]) + last)
    source = opened(data[:-10])
    assert [row[0] for row in rows_of(source)] == [5]
    assert source.losses == [
        Loss(
            "truncated",
            detail=f"byte {len(data) - len(last)}: the input ends inside a record,"
            f" after {len(last) - 10} bytes of it",
        )
    ]


def test_a_directory_with_a_cut_stream(tmp_path: Path) -> None:
    writer = w.Writer([EXIT])
    stream = writer.records([exit_at(5), exit_at(6)])
    writer.directory(tmp_path / "d", writer.round(), [stream[:-1], stream])
    source = open_perf_data(tmp_path / "d")
    assert [row[0] for row in rows_of(source)] == [5, 5, 6]
    (loss,) = source.losses
    assert loss.detail.startswith("data.0 byte ")
    source.close()


def test_a_damaged_zstd_stream_ends_what_is_compressed() -> None:
    writer = w.Writer([EXIT])
    samples = [exit_at(i) for i in range(400)]
    packed = bytearray(writer.compressed(writer.records(samples), piece_bytes=4000))
    packed[len(packed) // 2 + 20] ^= 0xFF
    packed[len(packed) // 2 + 21] ^= 0xFF
    source = opened(writer.file(bytes(packed)))
    rows = rows_of(source)
    assert 0 < len(rows) < 400
    assert any("compressed data" in loss.detail for loss in source.losses)


def test_a_bomb_gives_only_what_fits_into_memory() -> None:
    writer = w.Writer([EXIT])
    bomb = writer.compressed(bytes(64 << 20), piece_bytes=64 << 20)
    assert len(bomb) < 20_000
    source = opened(writer.file(writer.records([exit_at(5)]) + bomb))
    assert len(rows_of(source)) == 1
    assert source.losses[0].cause == "damaged"


def test_events_without_a_format_are_counted() -> None:
    writer = w.Writer([EXIT])
    unknown = w.Writer([dataclasses.replace(EXIT, id=7)])
    records = writer.records([exit_at(5)]) + unknown.records([exit_at(6), exit_at(7)])
    source = opened(writer.file(records))
    assert len(rows_of(source)) == 1
    (loss,) = source.losses
    assert (loss.cause, loss.count) == ("unknown-event", 2)
    assert "7" in loss.detail


def test_a_recording_in_another_pid_namespace_says_so() -> None:
    writer = w.Writer([EXIT])
    record = bytearray(writer.sample(exit_at(5, tid=4711)))
    place = record.index((4711).to_bytes(4, "little"))  # TID's pid, then its tid
    record[place : place + 8] = (1).to_bytes(4, "little") * 2
    source = opened(writer.file(bytes(record)))
    assert [row[2] for row in rows_of(source)] == [4711]
    assert "PID namespace" in source.info.notes[0]


def test_clocks_are_named() -> None:
    for clockid, name in ((None, "perf"), (1, "mono"), (7, "boot"), (99, "clockid 99")):
        writer = w.Writer([dataclasses.replace(EXIT, clockid=clockid)])
        assert opened(writer.file(writer.round())).info.clock == name


NO_FORMATS = "event formats"
ROUND = w.Writer([EXIT]).round()
FAR_OFF = bytearray(w.Writer([EXIT]).file(ROUND))
FAR_OFF[104 + 4 * 8 + 128 : 104 + 4 * 8 + 136] = b"\xff" * 8  # where the ids lie
FAR_OFF[40:48] = b"\xff" * 7 + b"\x7f"  # where the records do


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", TraceFormatError, "PERFILE2"),
        (b"PERFFILE" + bytes(96), UnsupportedTraceError, "version 1"),
        (b"PERFILE2" + bytes(96), TraceFormatError, "header of 0 bytes"),
        (
            w.Writer([EXIT]).file(ROUND, with_formats=False),
            UnanswerableError,
            NO_FORMATS,
        ),
        (w.Writer([EXIT]).file(b"", interrupted=True), UnanswerableError, "SIGINT"),
        (w.Writer([EXIT]).file(bytes(64))[:400], UnanswerableError, "cut off"),
        (FAR_OFF, UnanswerableError, "ends before its records"),
        (w.Writer([EXIT]).pipe(b"")[:16], TraceFormatError, "ATTR"),
        (
            w.Writer([dataclasses.replace(EXIT, tracepoint=False)]).file(ROUND),
            UnanswerableError,
            r"only kvm:kvm_exit.*perf record -a",
        ),
        (
            w.Writer([dataclasses.replace(EXIT, sample_type=w.CPU | w.RAW)]).file(
                ROUND
            ),
            UnanswerableError,
            "no TIME",
        ),
        (
            w.Writer([dataclasses.replace(EXIT, sample_type=w.TIME | w.RAW)]).file(
                ROUND
            ),
            UnanswerableError,
            "no CPU",
        ),
    ],
)
def test_refused(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        opened(data)


def test_some_events_without_a_cpu_are_kept_and_noted() -> None:
    kinds = w.PLAIN & ~w.CPU
    writer = w.Writer([EXIT, dataclasses.replace(SWITCH, sample_type=kinds)])
    source = opened(writer.file(writer.records([exit_at(5, 1), switch_at(6, 1)])))
    assert [row[1] for row in rows_of(source)] == [1, -1]
    assert source.info.cpus == (1,)
    assert "1 events do not tell their pCPU" in source.info.notes[0]
