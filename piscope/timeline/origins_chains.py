"""Call chains in a trace: what came before an event in the context that it is of.

A context is a pCPU with the thread that it runs, or with an interrupt that came in
between. Within one, events follow each other as the code does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events

__all__ = (
    "ANY_IRQ",
    "HARDIRQ",
    "IRQS_OFF",
    "Accepts",
    "contexts",
    "last_before",
    "last_of_thread",
    "open_handler",
    "over_between",
)

# TRACE_FLAG_*, include/linux/trace_events.h
IRQS_OFF, HARDIRQ, _SOFTIRQ = 0x01, 0x08, 0x10
ANY_IRQ = HARDIRQ | _SOFTIRQ


@dataclass(slots=True)
class Accepts:
    """Accept events that stand for fixed interrupts; int64[n] each.

    rows     ascending rows of EVENTS
    apicid   KVM's vcpu_id of the target
    vec      vector
    """

    rows: Array
    apicid: Array
    vec: Array


def contexts(events: Events, rows: Array) -> Array:
    """One number for each (pCPU, thread, interrupt or not): a call chain's context."""
    irq = (events.flags[rows] & ANY_IRQ).astype(np.int64)
    return (
        (events.cpu[rows].astype(np.int64) << 40)
        | (events.tid[rows].astype(np.int64) << 8)
        | irq
    )


def last_before(
    keys: Array, rows: Array, other_keys: Array, other_rows: Array
) -> npt.NDArray[np.int64]:
    """For each row, the last other row of its key before it: index, or -1.

    `other_rows` ascend.
    """
    if not len(other_rows):
        return np.full(len(rows), -1, np.int64)
    # mostly the last one of any key is the one
    at = np.searchsorted(other_rows, rows, side="left") - 1
    same = (at >= 0) & (other_keys[at] == keys)
    result: npt.NDArray[np.int64] = np.where(same, at, -1)
    open_ = np.flatnonzero(~same)
    if not len(open_):
        return result
    rows, keys = rows[open_], keys[open_]
    known, coded = np.unique(keys, return_inverse=True)
    other_coded = np.minimum(np.searchsorted(known, other_keys), len(known) - 1)
    other = np.flatnonzero(known[other_coded] == other_keys)
    if not len(other):
        return result
    span = int(max(rows.max(), other_rows.max())) + 2
    key = coded * span + rows
    other_key = other_coded[other] * span + other_rows[other]
    order = np.argsort(other_key, kind="stable")
    at = np.searchsorted(other_key[order], key, side="left") - 1
    found = other[order[np.maximum(at, 0)]]
    same = (at >= 0) & (other_keys[found] == keys)
    result[open_] = np.where(same, found, -1)
    return result


def last_of_thread(
    events: Events, rows: Array, other_rows: Array
) -> npt.NDArray[np.int64]:
    """For each row, the last of the other rows that its thread traced before it, or -1.

    int64[n]: a row, no index.
    """
    found = last_before(events.tid[rows], rows, events.tid[other_rows], other_rows)
    if not len(other_rows):
        return found
    return np.where(found >= 0, other_rows[found], -1)


def over_between(events: Events, first: Array, last: Array) -> npt.NDArray[np.bool_]:
    """Whether a call chain that is at row `first` has surely ended before `last`.

    bool[m], for rows of one pCPU each: it entered a guest, left one, or switched.
    """
    is_over = np.zeros(len(events), np.bool_)
    for name in ("kvm_entry", "kvm_exit", "sched_switch"):
        is_over[events.rows(name)] = True
    over = np.flatnonzero(is_over)
    begin = np.searchsorted(over, first, side="right")
    end = np.searchsorted(over, last, side="left")
    result: npt.NDArray[np.bool_] = begin < end
    # mostly nothing of any pCPU lies between; only what does can tell
    open_ = np.flatnonzero(result)
    depth = np.zeros(len(over) + 1, np.int64)
    np.add.at(depth, begin[open_], 1)
    np.add.at(depth, end[open_], -1)
    over = over[np.cumsum(depth[:-1]) > 0]
    ended = last_before(
        events.cpu[last[open_]].astype(np.int64),
        last[open_],
        events.cpu[over].astype(np.int64),
        over,
    )
    result[open_] = (ended >= 0) & (over[ended] > first[open_]) if len(over) else False
    return result


def open_handler(
    events: Events, rows: Array, names: tuple[tuple[str, str], ...]
) -> npt.NDArray[np.int64]:
    """The interrupt handler that each row lies in: the row of its entry, or -1.

    `names` are pairs of events, entry and exit. Handlers do not nest on a pCPU. Where
    the record has flags, only rows in hardirq context lie in one; an entry whose exit
    was not recorded is over when the pCPU switches, or enters or leaves a guest.
    """
    entries = _merged([events.rows(entry) for entry, _ in names])
    if not len(entries) or not len(rows):
        return np.full(len(rows), -1, np.int64)
    exits = _merged([events.rows(exit_) for _, exit_ in names])
    both = _merged([entries, exits])
    is_entry = np.isin(both, entries)
    result = np.full(len(rows), -1, np.int64)
    asked = np.arange(len(rows))
    if events.info.events_flags:
        asked = np.flatnonzero((events.flags[rows] & HARDIRQ) != 0)
    at = last_before(events.cpu[rows[asked]], rows[asked], events.cpu[both], both)
    inside = (at >= 0) & is_entry[at]
    asked, at = asked[inside], at[inside]
    result[asked] = both[at]
    # (the interrupt that ended a guest's run is handled right behind the kvm_exit)
    result[asked[over_between(events, result[asked], rows[asked])]] = -1
    return result


def _merged(parts: list[Array]) -> Array:
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        return parts[0]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
