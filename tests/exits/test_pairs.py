"""Which exits have an entry, and what is left out and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_source import FakeSource, Row
from hypothesis import given
from hypothesis import strategies as st

from piscope.errors import UnanswerableError
from piscope.events.catalog import analysis_fields
from piscope.events.normalize import collect
from piscope.exits_pipeline import report_exits
from piscope.sources.raw import Loss, Wanted
from piscope.timeline.exits import ExitsTimeline, Fate, build_exits

HLT, MSR_WRITE = 12, 32


def enter(ts_ns: int, tid: int = 10, cpu: int = 0) -> Row:
    return ts_ns, cpu, tid, "kvm:kvm_entry", {"vcpu_id": tid - 10}


def leave(
    ts_ns: int, reason: int = HLT, tid: int = 10, cpu: int = 0, isa: int = 1
) -> Row:
    fields = {"exit_reason": reason, "isa": isa, "vcpu_id": tid - 10}
    return ts_ns, cpu, tid, "kvm:kvm_exit", fields


def switch(ts_ns: int, prev: int, to: int, state: int = 1, cpu: int = 0) -> Row:
    fields = {"prev_pid": prev, "prev_state": state, "next_pid": to}
    return ts_ns, cpu, prev, "sched:sched_switch", fields


def built(rows: list[Row], *losses: Loss, **info: Any) -> ExitsTimeline:
    source = FakeSource(rows, losses=losses, **info)
    return build_exits(collect(source, Wanted(analysis_fields())))


def fates(rows: list[Row], *losses: Loss) -> list[Fate]:
    return [Fate(f) for f in built(rows, *losses).exits.fate]


def test_an_exit_and_its_entry() -> None:
    # entry 0 ---- exit 100 ==== entry 350
    exits = built([enter(0), leave(100), enter(350)]).exits
    assert exits.dur_ns.tolist() == [250]
    assert exits.reason.tolist() == [HLT]


def test_nothing_counts_before_a_threads_first_entry() -> None:
    rows = [leave(50), enter(100), leave(200), enter(300)]
    assert fates(rows) == [Fate.BEFORE_FIRST_ENTRY, Fate.PAIRED]


def test_of_two_exits_in_a_row_the_second_is_paired() -> None:
    rows = [enter(0), leave(100), leave(200), enter(300)]
    assert fates(rows) == [Fate.NO_ENTRY, Fate.PAIRED]


def test_an_exit_at_the_end_is_open() -> None:
    rows = [enter(0), leave(100), enter(150), leave(200), enter(900, tid=11)]
    assert fates(rows) == [Fate.PAIRED, Fate.OPEN]


def test_threads_do_not_mix() -> None:
    rows = [
        enter(0, 10),
        enter(5, 11, cpu=1),
        leave(100, tid=10),
        leave(110, MSR_WRITE, 11, cpu=1),
        enter(130, 11, cpu=1),
        enter(400, 10),
    ]
    assert built(rows).exits.dur_ns.tolist() == [300, 20]


@pytest.mark.parametrize(
    ("lost_on", "expected"),
    [(0, Fate.LOST), (None, Fate.LOST), (1, Fate.PAIRED)],
)
def test_a_loss_between(lost_on: int | None, expected: Fate) -> None:
    # The thread stays on pCPU 0 (there are switches, and none is its own).
    rows = [switch(0, 1, 2, cpu=1), enter(1), leave(100), enter(300), leave(400)]
    loss = Loss("missed-events", cpu=lost_on, start_ns=150, end_ns=200, count=3)
    assert fates(rows, loss) == [expected, Fate.OPEN]


def test_a_loss_elsewhere_while_the_thread_was_switched_out() -> None:
    # It may have run on pCPU 1 unseen, and come back.
    rows = [enter(1), leave(100), switch(120, 10, 0), switch(290, 0, 10), enter(300)]
    loss = Loss("missed-events", cpu=1, start_ns=150, end_ns=200, count=3)
    assert fates(rows, loss) == [Fate.LOST]


def test_a_loss_elsewhere_without_switches_to_tell() -> None:
    rows = [enter(1), leave(100), enter(300)]
    loss = Loss("missed-events", cpu=1, start_ns=150, end_ns=200)
    assert fates(rows, loss) == [Fate.LOST]


def test_a_loss_before_and_after_touches_nothing() -> None:
    rows = [enter(1), leave(100), enter(300), leave(400), enter(500)]
    before = Loss("missed-events", cpu=0, start_ns=10, end_ns=90)
    after = Loss("missed-events", cpu=0, start_ns=310, end_ns=390)
    assert fates(rows, before, after) == [Fate.PAIRED, Fate.PAIRED]


def test_an_overwritten_buffer_begins_late() -> None:
    # pCPU 1 knows nothing before 200: the thread may have been there.
    rows = [enter(1), leave(100), enter(300, cpu=1), leave(400, cpu=1), enter(500)]
    loss = Loss("overwritten", cpu=1, end_ns=200)
    assert fates(rows, loss)[0] is Fate.LOST


def test_losses_at_unknown_places_are_told() -> None:
    source = FakeSource(
        [enter(1), leave(100), enter(300)],
        losses=[Loss("lost-record", count=7)],
    )
    said = " ".join(report_exits(source).cannot_tell)
    assert "7 events are missing" in said


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 5)), max_size=60
    )
)
def test_the_pairs_are_those_of_the_plain_walk(
    steps: list[tuple[int, bool, int]],
) -> None:
    # perf's own walk, event by event: handle_kvm_event of builtin-kvm.c
    rows: list[Row] = [leave(0, tid=20)]  # so that there is always an exit
    begun: dict[int, tuple[int, int] | None] = {}
    expected = []
    ts_ns = 0
    for vcpu, is_exit, wait_ns in steps:
        ts_ns += wait_ns
        tid = 10 + vcpu
        if is_exit:
            rows.append(leave(ts_ns, wait_ns, tid))
            if tid in begun:
                begun[tid] = (ts_ns, wait_ns)
        else:
            rows.append(enter(ts_ns, tid))
            last = begun.get(tid)
            if last is not None:
                expected.append((last[0], last[1], ts_ns - last[0]))
            begun[tid] = None
    timeline = built(rows)
    exits = timeline.exits
    ok = exits.paired
    found = zip(
        exits.ts_ns[ok].tolist(),
        exits.reason[ok].tolist(),
        exits.dur_ns[ok].tolist(),
        strict=True,
    )
    assert sorted(found) == sorted(expected)
    left_out = exits.left_out(np.ones(len(exits), np.bool_), len(timeline.vcpus))
    assert sum(count.sum() for count in left_out.values()) == (~ok).sum()


@pytest.mark.parametrize(
    ("rows", "info", "losses", "said"),
    [
        ([enter(1)], {}, [], "no kvm_exit"),
        ([], {}, [], "no kvm_exit"),
        ([leave(1)], {"ts_unit": "cycles"}, [], "--tsc-khz"),
        ([leave(1)], {}, [Loss("sub-sampled")], "sub-sampled"),
    ],
)
def test_what_cannot_be_timed_is_refused(
    rows: list[Row], info: dict[str, Any], losses: list[Loss], said: str
) -> None:
    with pytest.raises(UnanswerableError, match=said):
        report_exits(FakeSource(rows, losses=losses, **info))
