"""The events around a notification: which, in which time, at which place."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES
from fake_source import FakeSource, Row

from piscope.cli import run
from piscope.commands.explain_events import near_events
from piscope.events.normalize import collect
from piscope.explain.near_events import MOST_EVENTS, Near
from piscope.sources.raw import Wanted
from piscope.tables import Events

KHZ = 2_500_000  # 2.5 counts a ns
EVERY = Wanted({"*": None})


def _near(events: Events, keys: dict[int, list[int]], **more: Any) -> Near:
    at = sorted(keys)
    values: dict[str, Any] = {
        "spans_ns": (),
        "cpus": frozenset({0}),
        "tids": frozenset(),
        "zero_ns": int(events.ts_ns[at[0]]),
        **more,
    }
    return Near(
        keys,
        np.unique(events.ts_ns[at]),
        frozenset(events.cpu[at].tolist()),
        **values,
    )


def _rows(count: int, step: int = 2500) -> list[Row]:
    return [
        (step * i, i % 2, 100 + i % 2, "kvm:kvm_entry", {"vcpu_id": i})
        for i in range(count)
    ]


def test_keys_come_with_their_steps_and_fields() -> None:
    source = FakeSource(_rows(40))
    events = collect(source, EVERY)
    lines = near_events(source, events, _near(events, {4: [1], 11: [2, 3]}))
    assert [(line.ts_ns, line.steps) for line in lines] == [
        (10_000, [1]),
        (27_500, [2, 3]),
    ]
    assert [line.offset_ns for line in lines] == [0, 17_500]
    assert lines[1].fields == {"vcpu_id": 11}
    assert lines[1].text == "vcpu_id=11"
    assert [line.gap for line in lines] == [False, True]


def test_counts_of_a_tsc_are_read_where_they_are() -> None:
    source = FakeSource(_rows(40), ts_unit="cycles")
    events = collect(source, EVERY, KHZ)
    assert events.ts_ns[11] == 11_000
    near = _near(events, {4: [1], 11: [2]})
    lines = near_events(source, events, near, tsc_khz=KHZ)
    assert [(line.ts_ns, line.steps) for line in lines] == [(4000, [1]), (11_000, [2])]


def test_what_is_near_is_told_up_to_a_limit() -> None:
    source = FakeSource(_rows(4000))
    events = collect(source, EVERY)
    near = _near(events, {2000: [1], 3998: [2]}, spans_ns=((0, 2500 * 3999),))
    lines = near_events(source, events, near)
    assert len(lines) == MOST_EVENTS
    assert {n for line in lines for n in line.steps} == {1, 2}
    told = [line.fields["vcpu_id"] for line in lines if not line.steps]
    # pCPU 1 and its thread are not concerned; the nearest are told
    assert all(n % 2 == 0 and abs(n - 2000) <= MOST_EVENTS for n in told)
    assert lines[-1].gap


def test_ignored_events_stay_away() -> None:
    rows: list[Row] = [*_rows(10), (25_000, 0, 9, "pi:pi_put", {"ctl": 1})]
    source = FakeSource(rows)
    events = collect(source, EVERY)
    near = _near(events, {0: [1]}, spans_ns=((0, 30_000),))
    assert "pi_put" in {line.event for line in near_events(source, events, near)}
    lines = near_events(source, events, near, ignore=("pi:*",))
    assert "pi_put" not in {line.event for line in lines}


def _told(*words: str, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capfd.readouterr()
    assert run(["explain", "--json", *words]) == 0
    told: dict[str, Any] = json.loads(capfd.readouterr().out)
    return told


def test_bytes_are_those_of_the_samples(capfd: pytest.CaptureFixture[str]) -> None:
    path = SAMPLES / "vmx-6.17.13-ipiv-tools.p_rich.perf.data"
    data = path.read_bytes()
    told = _told("--hit", "wakeup", str(path), capfd=capfd)
    for event in told["events"]:
        unit, _, place = event["position"].rpartition(" ")
        assert unit == "byte"
        # PERF_RECORD_SAMPLE
        assert struct.unpack_from("<I", data, int(place)) == (9,)


def test_lines_are_those_of_the_text(
    lab: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = lab / "vmx-6.17.13-ipiv-us" / "k_userspace_ipi.ftrace.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    told = _told("--finding", "5", str(path), capfd=capfd)
    assert told["events"]
    for event in told["events"]:
        unit, _, number = event["position"].rpartition(" ")
        assert unit == "line"
        assert f" {event['event']}: " in lines[int(number) - 1]
        assert f"-{event['tid']}" in lines[int(number) - 1]
