"""`piscope events`: lines, JSON, CSV and Parquet say the same, and nothing else."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_source import FakeSource, Row

from piscope.sources.raw import Loss

Run = Callable[..., tuple[int, str, str]]

ROWS: list[Row] = [
    # given out of order, as chunks of different pCPUs are
    (
        54_943_605_370,
        1,
        235,
        "sched:sched_switch",
        {
            "prev_comm": b"CPU 0/KVM",
            "prev_pid": 235,
            "prev_state": 256,
            "next_comm": b"a b=\x1b[2J\xff",
            "next_pid": 0,
        },
    ),
    (
        54_943_601_123,
        0,
        235,
        "kvm:kvm_entry",
        {"vcpu_id": 0, "rip": np.uint64(2**64 - 1)},
    ),
    (
        54_943_601_124,
        0,
        235,
        "kvm:kvm_exit",
        {"vcpu_id": 0, "exit_reason": 12, "isa": 1, "info2": np.uint64(2**63)},
    ),
    (54_943_601_124, 0, 0, "irq:softirq_raise", {"vec": 9}),
    (54_943_601_125, 0, 0, "irq:softirq_raise", {"vec": None}),
]
COMMS = {235: "CPU 0/KVM", 7: "other"}


@pytest.fixture
def trace(traces: dict[str, FakeSource]) -> FakeSource:
    traces["t"] = FakeSource(ROWS, comms=COMMS)
    return traces["t"]


def test_lines_in_time_order(trace: FakeSource, piscope: Run) -> None:
    status, out, err = piscope("events", "t")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "       CPU 0/KVM-235     [000]    54.943601123: kvm_entry:"
        " vcpu_id=0 rip=0xffffffffffffffff",
        "       CPU 0/KVM-235     [000]    54.943601124: kvm_exit:"
        " vcpu_id=0 exit_reason=12 isa=1 info2=0x8000000000000000",
        "          <idle>-0       [000]    54.943601124: softirq_raise: vec=9",
        "          <idle>-0       [000]    54.943601125: softirq_raise:",
        "       CPU 0/KVM-235     [001]    54.943605370: sched_switch:"
        " prev_comm=CPU 0/KVM prev_pid=235 prev_state=256"
        " next_comm=a b=\\x1b[2J\N{REPLACEMENT CHARACTER} next_pid=0",
    ]


def test_json_lines_are_exact(trace: FakeSource, piscope: Run) -> None:
    _, out, _ = piscope("events", "t", "--format", "jsonl")
    first, second, third, fourth, last = map(json.loads, out.splitlines())
    assert first == {
        "ts_ns": 54_943_601_123,
        "cpu": 0,
        "tid": 235,
        "comm": "CPU 0/KVM",
        "system": "kvm",
        "event": "kvm_entry",
        "seq": 1,
        "flags": 0,
        "fields": {"vcpu_id": 0, "rip": 2**64 - 1},
    }
    assert second["fields"]["info2"] == 2**63
    assert (third["comm"], third["fields"]) == ("<idle>", {"vec": 9})
    assert fourth["fields"] == {}
    assert last["fields"]["next_comm"] == "a b=\x1b[2J\N{REPLACEMENT CHARACTER}"


def test_parquet_columns(trace: FakeSource, piscope: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    assert piscope("events", "t", "-o", str(file)) == (0, "", "")
    table = pq.read_table(file)
    assert table["ts_ns"].to_pylist() == sorted(r[0] for r in ROWS)
    entry, exit_, _, raised, switch = table.to_pylist()
    assert (entry["system"], entry["event"], entry["vcpu_id"]) == (
        "kvm",
        "kvm_entry",
        0,
    )
    # typed where piscope reads the field, JSON where it does not, null elsewhere
    assert json.loads(entry["fields"]) == {"rip": 2**64 - 1}
    assert entry["prev_pid"] is None
    assert (exit_["info2"], exit_["fields"]) == (2**63, None)
    assert json.loads(raised["fields"]) == {}
    assert switch["next_pid"] == 0
    assert json.loads(switch["fields"]).keys() == {"prev_comm", "next_comm"}
    about = json.loads(table.schema.metadata[b"piscope"])
    assert (about["format"], about["ts_unit"]) == ("fake", "ns")


def test_csv_has_the_same_columns(
    trace: FakeSource, piscope: Run, tmp_path: Path
) -> None:
    for name in ("events.csv", "events.parquet"):
        piscope("events", "t", "-o", str(tmp_path / name))
    with (tmp_path / "events.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    table = pq.read_table(tmp_path / "events.parquet")
    assert header == table.column_names

    def text(value: Any) -> str:
        return "" if value is None else str(value)

    for row, expected in zip(rows, table.to_pylist(), strict=True):
        assert row == [text(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-e", "kvm_*"], ["kvm_entry", "kvm_exit"]),
        (["-e", "irq:*", "-e", "kvm_exit"], ["kvm_exit", "softirq_raise"]),
        (["--ignore", "softirq_*"], ["kvm_entry", "kvm_exit", "sched_switch"]),
        (["--cpu", "1-3"], ["sched_switch"]),
        (["--tid", "0"], ["softirq_raise"]),
        (["--vcpu", "0"], ["kvm_entry", "kvm_exit", "sched_switch"]),
        (["--vcpu", "1"], []),
        (["--limit", "1"], ["kvm_entry"]),
        (["--limit", "0"], []),
        (["--tid", "235", "--limit", "2"], ["kvm_entry", "kvm_exit"]),
        (["--from", "54.943605"], ["sched_switch"]),
        (["--to", "54.943601124"], ["kvm_entry"]),
        (["--from", "1ns", "--to", "2ns"], ["kvm_exit", "softirq_raise"]),
        (["--from", "-1ns"], ["sched_switch"]),
        (["--from", "50%", "--to", "100%"], ["sched_switch"]),
    ],
)
def test_filters(
    trace: FakeSource, piscope: Run, options: list[str], expected: list[str]
) -> None:
    status, out, err = piscope("events", "t", *options)
    assert (status, err) == (0, "")
    names = [line.split(": ")[1].rstrip(":") for line in out.splitlines()]
    assert list(dict.fromkeys(names)) == expected


def test_one_pass_where_one_is_enough(trace: FakeSource, piscope: Run) -> None:
    piscope("events", "t", "--from", "54.9", "--cpu", "0")
    assert trace.passes == 1
    assert trace.closed


def test_absent_fields(trace: FakeSource, piscope: Run) -> None:
    _, out, _ = piscope("events", "t", "-e", "kvm_*", "--absent", "vcpu_id")
    assert "vcpu_id" not in out
    assert "rip=" in out


def test_a_clock_that_counts(traces: dict[str, FakeSource], piscope: Run) -> None:
    traces["t"] = FakeSource(ROWS, ts_unit="cycles", clock="x86-tsc")
    _, out, _ = piscope("events", "t", "--from", "54943605370")
    assert " 54943605370: sched_switch:" in out
    status, _, err = piscope("events", "t", "--from", "5ms")
    assert status == 2
    assert "does not count nanoseconds" in err


def test_microseconds_stay_microseconds(
    traces: dict[str, FakeSource], piscope: Run
) -> None:
    traces["t"] = FakeSource([(1_000_001_000, 0, 1, "x:y", {})], ts_resolution_ns=1000)
    _, out, _ = piscope("events", "t")
    assert out == "           <...>-1       [000]     1.000001: y:\n"


def test_losses_are_told_on_stderr(traces: dict[str, FakeSource], piscope: Run) -> None:
    losses = [Loss("missed-events", 1, count=40), Loss("missed-events", 3)]
    traces["t"] = FakeSource(ROWS, losses=losses)
    status, out, err = piscope("events", "t")
    assert (status, len(out.splitlines())) == (0, 5)
    assert err == ("piscope: note: the ring buffer lost events: at least 40, CPU 1,3\n")
    assert piscope("events", "t", "-q")[2] == ""


def test_no_half_written_file(
    traces: dict[str, FakeSource], piscope: Run, tmp_path: Path
) -> None:
    class Breaking(FakeSource):
        def chunks(self, wanted: Any) -> Any:
            yield from super().chunks(wanted)
            raise MemoryError

    traces["t"] = Breaking(ROWS)
    target = tmp_path / "events.parquet"
    target.write_bytes(b"what was there before")
    status, _, err = piscope("events", "t", "-o", str(target))
    assert (status, err) == (2, "piscope: error: out of memory\n")
    assert [p.name for p in tmp_path.iterdir()] == ["events.parquet"]
    assert target.read_bytes() == b"what was there before"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "events.xlsx"], "expected a name ending in .csv, .jsonl"),
        (["-o", "/no/such/folder/e.csv"], "/no/such/folder/e.csv: can't be written"),
        (["-o", "/tmp", "-f", "csv"], "/tmp: is a directory"),
        (["--cpu", "x"], "'x' is not a list of numbers"),
        (["--from", "noon"], "'noon' is not an instant"),
        (["--limit", "-1"], "-1 is not in the range"),
        (["--nonsense"], "No such option"),
    ],
)
def test_refused(
    trace: FakeSource, piscope: Run, options: list[str], said: str
) -> None:
    status, out, err = piscope("events", "t", *options)
    assert (status, out) == (2, "")
    assert err.startswith("piscope: error: ")
    assert said in err
    assert err.count("\n") == 1


def test_many_chunks_make_bounded_row_groups(
    traces: dict[str, FakeSource], piscope: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    from piscope.commands import event_files

    monkeypatch.setattr(event_files, "_ROW_GROUP_ROWS", 100)
    rows: list[Row] = [
        (i, i % 3, 1, "kvm:kvm_entry", {"vcpu_id": i}) for i in range(950)
    ]
    traces["t"] = FakeSource(rows, chunk_rows=40, watermarks=True)
    file = tmp_path / "e.parquet"
    piscope("events", "t", "-o", str(file))
    parquet = pq.ParquetFile(file)
    assert parquet.read()["vcpu_id"].to_pylist() == list(range(950))
    groups = [
        parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)
    ]
    assert max(groups) <= 140
    encodings = parquet.metadata.row_group(0).column(0).encodings
    assert "DELTA_BINARY_PACKED" in encodings
