"""Which rows a thread or a vCPU concerns."""

from __future__ import annotations

import pytest
from fake_source import FakeSource

from piscope.commands.selection import Rows, kept, parse_numbers, without_fields
from piscope.errors import UsageError
from piscope.sources.raw import RawChunk, Wanted

# Two VMs: thread 11 runs vCPU 0 of one, thread 21 runs vCPU 0 of the other.
ROWS = [
    (1, 0, 11, "kvm:kvm_entry", {"vcpu_id": 0}),
    (2, 0, 12, "kvm:kvm_entry", {"vcpu_id": 1}),
    (3, 1, 21, "kvm:kvm_entry", {"vcpu_id": 0}),
    (4, 1, 99, "kvm:kvm_apicv_accept_irq", {"apicid": 0, "vec": 65}),
    (5, 1, 99, "kvm:kvm_apicv_accept_irq", {"apicid": 1, "vec": 65}),
    (6, 1, 99, "sched:sched_switch", {"prev_pid": 99, "next_pid": 11}),
    (7, 1, 99, "sched:sched_switch", {"prev_pid": 99, "next_pid": 98}),
    (8, 1, 99, ":sched_wakeup", {"pid": 21}),
    (9, 1, 99, "other:event", {"pid": 21}),
]
THREADS = {11: {0}, 12: {1}, 21: {0}}


def _chosen(rows: Rows) -> list[int]:
    source = FakeSource(ROWS)
    (chunk,) = source.chunks(Wanted({"*": None}))
    mask = rows.mask(chunk, source.events)
    return [r[0] for r in ROWS] if mask is None else chunk.ts_ns[mask].tolist()


def test_no_selection_is_all() -> None:
    assert _chosen(Rows()) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_thread_is_what_happened_while_it_ran() -> None:
    assert _chosen(Rows(tids={11, 12})) == [1, 2]


def test_a_vcpu_is_its_threads_and_what_names_them() -> None:
    assert _chosen(Rows(vcpu_ids={0}, vcpu_threads=THREADS)) == [1, 3, 4, 6, 8]
    assert _chosen(Rows(vcpu_ids={1}, vcpu_threads=THREADS)) == [2, 5]


def test_both_must_hold() -> None:
    both = Rows(tids={99}, vcpu_ids={0}, vcpu_threads=THREADS)
    assert _chosen(both) == [4, 6, 8]


def test_kept_rows_keep_their_fields() -> None:
    source = FakeSource(
        [(i, 0, 1, "x:y", {"a": i if i % 3 else None}) for i in range(9)]
    )
    (chunk,) = source.chunks(Wanted({"*": None}))
    part = kept(chunk, chunk.ts_ns >= 4)
    assert isinstance(part, RawChunk)
    assert part.ts_ns.tolist() == [4, 5, 6, 7, 8]
    payload = part.payload[0]
    assert payload.rows.tolist() == [0, 1, 2, 3, 4]
    assert payload.columns["a"].tolist() == [4, 5, 0, 7, 8]
    assert payload.valid["a"].tolist() == [True, True, False, True, True]


def test_absent_fields_go_by_name_or_by_event() -> None:
    source = FakeSource(ROWS)
    (chunk,) = source.chunks(Wanted({"*": None}))
    without_fields(chunk, frozenset({"vec", "sched_switch.next_pid"}), source.events)
    left = {source.events[i][1]: set(p.columns) for i, p in chunk.payload.items()}
    assert left["kvm_apicv_accept_irq"] == {"apicid"}
    assert left["sched_switch"] == {"prev_pid"}
    assert left["kvm_entry"] == {"vcpu_id"}


@pytest.mark.parametrize(
    ("text", "numbers"), [("5", {5}), ("0-3,5", {0, 1, 2, 3, 5}), ("2,2", {2})]
)
def test_numbers(text: str, numbers: set[int]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "3-", "-1", "5-3", "0-99999999", "1,,2"])
def test_numbers_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_numbers(text)
