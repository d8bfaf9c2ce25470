"""Chunks of any size, in any order, become one table in time order."""

from __future__ import annotations

import numpy as np
import pytest
from fake_source import FakeSource, Row
from hypothesis import given
from hypothesis import strategies as st

from piscope.events.normalize import collect
from piscope.sources.raw import Loss, Wanted
from piscope.tables import Events

ALL = Wanted({"*": None})


def row(ts_ns: int, cpu: int = 0, name: str = "kvm:kvm_entry", **fields: int) -> Row:
    return (ts_ns, cpu, 100 + cpu, name, fields or {"vcpu_id": ts_ns})


def read(rows: list[Row], chunk_rows: int = 1 << 30) -> Events:
    return collect(FakeSource(rows, chunk_rows=chunk_rows), ALL)


def test_of_one_instant_the_pcpu_then_the_buffer_decides() -> None:
    events = read([row(5, 1), row(5, 0, vcpu_id=8), row(5, 0, vcpu_id=9), row(4, 1)])
    assert events.ts_ns.tolist() == [4, 5, 5, 5]
    assert events.cpu.tolist() == [1, 0, 0, 1]
    column = events.column("kvm_entry", "vcpu_id", np.int64)
    assert column is not None
    assert column.tolist() == [4, 8, 9, 5]


def test_nothing_at_all() -> None:
    events = read([])
    assert len(events) == 0
    assert events.rows("kvm_entry").tolist() == []
    assert events.column("kvm_entry", "vcpu_id", np.int64) is None


def test_a_field_that_only_some_records_have() -> None:
    # a text's line without the key: the value is 0 and not valid
    events = read([row(2), row(1, other=7), row(3)], chunk_rows=1)
    column = events.column("kvm_entry", "vcpu_id", np.int64)
    assert column is not None
    assert column.tolist() == [0, 2, 3]
    assert events.valid("kvm_entry", "vcpu_id").tolist() == [False, True, True]


def test_one_name_in_two_systems() -> None:
    # kprobes of one name in two groups: rows and values in the order of time
    events = read(
        [
            row(1, name="a:pi_load", cpu_=1),
            row(2, name="b:pi_load", cpu_=2),
            row(3, name="a:pi_load", cpu_=3),
        ]
    )
    assert events.rows("pi_load").tolist() == [0, 1, 2]
    column = events.column("pi_load", "cpu_", np.int64)
    assert column is not None
    assert column.tolist() == [1, 2, 3]
    assert events.has("pi_load")


def test_what_the_source_says_is_kept() -> None:
    loss = Loss("missed-events", 0, 1, 2, 3)
    source = FakeSource([row(1)], losses=[loss], kernel_release="6.12.0")
    events = collect(source, ALL)
    assert events.losses == [loss]
    assert events.counts == {"kvm:kvm_entry": 1}
    assert events.info.kernel_release == "6.12.0"


rows = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(0, 3),
        st.sampled_from(("kvm:kvm_entry", "kvm:kvm_exit", "sched:sched_switch")),
    ),
    max_size=40,
)


@given(rows, st.integers(1, 10), st.booleans())
def test_any_chunks_give_the_sorted_table(
    drawn: list[tuple[int, int, str]], chunk_rows: int, by_cpu: bool
) -> None:
    # trace.dat gives each pCPU's rows in order, perf.data none at all
    if by_cpu:
        drawn = sorted(drawn, key=lambda r: r[0])
    given_rows: list[Row] = [
        (ts_ns, cpu, n, name, {"vcpu_id": n})
        for n, (ts_ns, cpu, name) in enumerate(drawn)
    ]
    events = read(given_rows, chunk_rows)
    expected = sorted(given_rows, key=lambda r: (r[0], r[1], r[2]))
    assert events.ts_ns.tolist() == [r[0] for r in expected]
    assert events.cpu.tolist() == [r[1] for r in expected]
    assert events.tid.tolist() == [r[2] for r in expected]
    names = [":".join(events.names[e]) for e in events.event]
    assert names == [r[3] for r in expected]
    for name in ("kvm_entry", "kvm_exit", "sched_switch"):
        at = events.rows(name)
        assert (np.diff(at) > 0).all()
        column = events.column(name, "vcpu_id", np.int64)
        got = [] if column is None else column.tolist()
        assert got == [r[4]["vcpu_id"] for r in expected if r[3].endswith(name)]


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_rows_in_time_order_already(chunk_rows: int) -> None:
    events = read([row(t, cpu=t % 2) for t in range(9)], chunk_rows)
    assert events.ts_ns.tolist() == list(range(9))
    assert events.rows("kvm_entry").tolist() == list(range(9))
