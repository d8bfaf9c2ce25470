"""What the recorder of a trace.dat knew to be lost, and what of it the file tells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from writers import trace_dat as w
from writers.ring_buffer import PageShape
from writers.trace_dat_cases import ALL, events, made, tids
from writers.trace_events import POINTS, Event

from piscope.sources import loss_log
from piscope.sources.raw import Loss, Wanted
from piscope.sources.trace_dat import open_trace_dat


@pytest.mark.parametrize("shape", [PageShape(), PageShape("big", 4)])
def test_flags_say_where_events_were_lost_and_how_many(shape: PageShape) -> None:
    source = open_trace_dat(
        w.trace_dat(made(shape=shape, missed={(0, 0): None, (1, 2): 99}))
    )
    assert tids(source) == ALL
    first, second = source.losses
    assert replace(first, detail="") == Loss("missed-events", 0, None, 10**6)
    # pCPU 1's third sub-buffer begins with its event number 10.
    assert replace(second, detail="") == Loss(
        "missed-events", 1, 10**6 + 900, 10**6 + 1000, 99
    )
    assert second.detail.startswith("lost before the sub-buffer at byte ")


def test_the_recorders_counts_are_compared_with_the_file() -> None:
    stats = {0: {"read events": 50, "entries": 17}, 1: {"overrun": 7}}
    source = open_trace_dat(w.trace_dat(made(stats=stats)))
    tids(source)
    assert source.losses == [
        Loss(
            "cpustat-mismatch",
            0,
            count=7,
            detail="the recorder counted 67 events, the file holds 60",
        ),
        Loss(
            "overwritten",
            1,
            end_ns=10**6,
            count=7,
            detail="the buffer wrapped: 7 events overrun",
        ),
    ]


def test_an_overrun_that_flags_have_told_is_not_told_again() -> None:
    stats = {0: {"overrun": 30, "commit overrun": 2, "dropped events": 4}}
    source = open_trace_dat(w.trace_dat(made(stats=stats, missed={(0, 3): 20})))
    tids(source)
    rows = [(r.cause, r.count, r.start_ns, r.end_ns) for r in source.losses]
    assert rows == [
        ("missed-events", 20, 10**6 + 1400, 10**6 + 1500),
        ("overwritten", 10, None, None),
        ("missed-events", 2, None, None),
        ("missed-events", 4, None, None),
    ]


def test_the_counts_of_an_instance_are_those_of_its_own_pcpus() -> None:
    recording = made(instances={"one": events(20)})
    # The instance's stats come last; its pCPU 1 is told to have had 3 more.
    number, text = recording.options[-1]
    text = text.replace(b"read events: 10", b"read events: 13")
    recording.options = [*recording.options[:-1], (number, text)]
    source = open_trace_dat(w.trace_dat(recording))
    tids(source)
    assert [(r.cause, r.cpu, r.count) for r in source.losses] == [
        ("cpustat-mismatch", 1, 3)
    ]
    assert "'one'" in source.losses[0].detail


def test_a_pcpu_without_data_of_which_the_recorder_counted_events() -> None:
    own = [e for e in events() if e.cpu == 0]
    recording = made(own, cpu_count=2)
    text = b"CPU: 1\nentries: 4\noverrun: 0\nread events: 5\n\0"
    recording.options = [*recording.options, (w.CPUSTAT, text)]
    source = open_trace_dat(w.trace_dat(recording))
    tids(source)
    assert [(r.cause, r.cpu, r.count) for r in source.losses] == [
        ("cpustat-mismatch", 1, 9)
    ]


def test_pcpus_that_were_not_asked_for_are_not_missed() -> None:
    source = open_trace_dat(w.trace_dat(made(stats={0: {"read events": 99}})))
    list(source.chunks(Wanted({"*": None}, cpus=frozenset({1}))))
    assert source.losses == []


def test_events_without_format_are_counted_by_id() -> None:
    known = [p for p in POINTS if p.name != "kvm_entry"]
    own = [Event("kvm_entry", 5, 0, 1), *events(10)]
    source = open_trace_dat(w.trace_dat(made(own, described=known)))
    assert sum(map(len, tids(source).values())) == 10
    assert source.counts == {"kvm:kvm_exit": 10}
    assert source.losses == [
        Loss("unknown-event", count=1, detail="event id 1600 has no format")
    ]


def test_a_format_that_cannot_be_parsed_leaves_its_events_without_fields() -> None:
    recording = made()
    recording.systems = [
        ("kvm", [b"name: kvm_exit\nID: 1601\nformat:\n\tno field here\n"])
    ]
    source = open_trace_dat(w.trace_dat(recording))
    assert tids(source) == ALL
    assert [loss.cause for loss in source.losses] == ["damaged"]
    assert "kvm:kvm_exit" in source.losses[0].detail


def test_losses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_log, "MAX_ROWS", 3)
    missed = {(0, page): 2 for page in range(1, 9)}
    source = open_trace_dat(w.trace_dat(made(missed=missed)))
    tids(source)
    assert len(source.losses) == 4
    rest = source.losses[-1]
    assert (rest.count, rest.detail) == (10, "5 more losses of this kind")
    assert (rest.start_ns, rest.end_ns) == (10**6 + 1900, 10**6 + 4000)
