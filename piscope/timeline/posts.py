"""Interrupts that were posted, to whom, and on what evidence (POSTS).

KVM's own posts are traced: kvm_apicv_accept_irq follows each one. Posts by a device
(VT-d) or by IPI virtualization leave no event; what betrays them is a descriptor
that changed while its vCPU was away (windows.py). An accept that follows a
kvm_msi_set_irq in one call chain came from an MSI, which a posting device would have
posted by itself.

    irq handler, eventfd or ioctl:
      kvm_msi_set_irq -> kvm_apic_accept_irq -> [PIR, ON, IPI or wakeup]
                                                    -> kvm_apicv_accept_irq

Source: arch/x86/kvm/lapic.c (__apic_accept_irq), arch/x86/kvm/irq_comm.c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Events, Posts, Vcpus

__all__ = ("find_posts",)

_ANY_IRQ = 0x18  # TRACE_FLAG_HARDIRQ | TRACE_FLAG_SOFTIRQ


@dataclass(slots=True)
class _Accepts:
    """The events of one accept tracepoint that stand for fixed interrupts."""

    rows: Array
    apicid: Array
    vec: Array


def find_posts(events: Events, vcpus: Vcpus) -> Posts:
    """Every fixed interrupt that KVM accepted for a vCPU.

    Since kvm_apicv_accept_irq exists (5.15) it tells a post from an accept without
    APICv; before, every accept counts as a post.
    """
    plain = _accepts(events, "kvm_apic_accept_irq")
    apicv = _accepts(events, "kvm_apicv_accept_irq")
    if len(apicv.rows) == 0:
        chosen, posted = (
            plain,
            np.full(len(plain.rows), not events.has("kvm_apicv_accept_irq")),
        )
    else:
        chosen, posted = apicv, np.ones(len(apicv.rows), np.bool_)
    started = chosen.rows
    if len(plain.rows) and len(chosen.rows):
        before = _preceding(events, chosen, plain)
        started = np.where(before >= 0, plain.rows[before], started)
    msi_row, unicast = _msi_of(events, chosen)
    is_msi = msi_row >= 0
    started = np.where(is_msi, msi_row, started).astype(np.int64)
    vcpu, certain = _targets(events, vcpus, chosen, started)
    order = np.argsort(started, kind="stable")
    return Posts(
        ts_ns=events.ts_ns[started][order],
        at=started[order],
        row=chosen.rows[order],
        vcpu=vcpu[order],
        vcpu_id=chosen.apicid[order].astype(np.int32),
        vector=chosen.vec[order].astype(np.int16),
        msi=is_msi[order],
        unicast=unicast[order],
        cpu=events.cpu[chosen.rows][order],
        tid=events.tid[chosen.rows][order],
        posted=posted[order],
        certain=certain[order],
    )


def _accepts(events: Events, name: str) -> _Accepts:
    rows = events.rows(name)
    columns = [events.column(name, f, np.int64) for f in ("apicid", "vec", "dm")]
    apicid, vec, dm = columns
    if apicid is None or vec is None:
        empty = np.empty(0, np.int64)
        return _Accepts(empty, empty, empty)
    known = events.valid(name, "apicid") & events.valid(name, "vec")
    if dm is not None:
        # the register's field (bits 10:8) or, from texts, its value
        mode = np.where(dm > 7, dm >> 8, dm)
        known &= mode <= 1  # APIC_DM_FIXED, APIC_DM_LOWEST
    return _Accepts(rows[known], apicid[known], vec[known])


def _contexts(events: Events, rows: Array) -> Array:
    """One number for each (pCPU, thread, interrupt or not): a call chain's context."""
    irq = (events.flags[rows] & _ANY_IRQ).astype(np.int64)
    return (
        (events.cpu[rows].astype(np.int64) << 40)
        | (events.tid[rows].astype(np.int64) << 8)
        | irq
    )


def _last_before(
    contexts: Array, rows: Array, other_contexts: Array, other_rows: Array
) -> Array:
    """For each row, the last other row of its context before it: index, or -1."""
    if not len(other_rows):
        return np.full(len(rows), -1, np.int64)
    # mostly the last one of any context is the one
    at = np.searchsorted(other_rows, rows, side="left") - 1
    same = (at >= 0) & (other_contexts[at] == contexts)
    result: Array = np.where(same, at, -1)
    open_ = np.flatnonzero(~same)
    if not len(open_):
        return result
    rows, contexts = rows[open_], contexts[open_]
    known, coded = np.unique(contexts, return_inverse=True)
    other_coded = np.minimum(np.searchsorted(known, other_contexts), len(known) - 1)
    other = np.flatnonzero(known[other_coded] == other_contexts)
    if not len(other):
        return result
    span = int(max(rows.max(), other_rows.max())) + 2
    key = coded * span + rows
    other_key = other_coded[other] * span + other_rows[other]
    order = np.argsort(other_key, kind="stable")
    at = np.searchsorted(other_key[order], key, side="left") - 1
    found = other[order[np.maximum(at, 0)]]
    same = (at >= 0) & (other_contexts[found] == contexts)
    result[open_] = np.where(same, found, -1)
    return result


def _preceding(events: Events, apicv: _Accepts, plain: _Accepts) -> Array:
    """The kvm_apic_accept_irq of each kvm_apicv_accept_irq: index, or -1."""
    found = _last_before(
        _contexts(events, apicv.rows),
        # an accept without APICv is its own beginning
        apicv.rows + 1,
        _contexts(events, plain.rows),
        plain.rows,
    )
    same = (plain.vec[found] == apicv.vec) & (plain.apicid[found] == apicv.apicid)
    result: Array = np.where((found >= 0) & same, found, -1)
    return result


def _msi_of(events: Events, accepts: _Accepts) -> tuple[Array, Array]:
    """The kvm_msi_set_irq of each accept (row or -1), and whether it has just one.

    Between the two nothing of that pCPU may say that the call chain is over: the
    tracepoint is also emitted where an MSI is only decoded.
    """
    rows = events.rows("kvm_msi_set_irq")
    data = events.column("kvm_msi_set_irq", "data", np.int64)
    if data is None:
        data = events.column("kvm_msi_set_irq", "vector", np.int64)
    none = np.full(len(accepts.rows), -1, np.int64)
    if data is None or not len(accepts.rows):
        return none, np.zeros(len(accepts.rows), np.bool_)
    found = _last_before(
        _contexts(events, accepts.rows), accepts.rows, _contexts(events, rows), rows
    )
    good = found >= 0
    good &= (data[found] & 0xFF) == accepts.vec
    at = np.flatnonzero(good)
    good[at] = ~_over_between(events, rows[found[at]], accepts.rows[at])
    msi_row = np.where(good, rows[found], -1)
    _, inverse, number = np.unique(msi_row, return_inverse=True, return_counts=True)
    unicast = good & (number[inverse] == 1)
    return msi_row, unicast


def _over_between(events: Events, first: Array, last: Array) -> Array:
    """Whether a call chain that is at row `first` has surely ended before `last`.

    bool[m], for rows of one pCPU each: it entered a guest, left one, or switched.
    """
    is_over = np.zeros(len(events), np.bool_)
    for name in ("kvm_entry", "kvm_exit", "sched_switch"):
        is_over[events.rows(name)] = True
    over = np.flatnonzero(is_over)
    begin = np.searchsorted(over, first, side="right")
    end = np.searchsorted(over, last, side="left")
    result = begin < end
    # mostly nothing of any pCPU lies between; only what does can tell
    open_ = np.flatnonzero(result)
    depth = np.zeros(len(over) + 1, np.int64)
    np.add.at(depth, begin[open_], 1)
    np.add.at(depth, end[open_], -1)
    over = over[np.cumsum(depth[:-1]) > 0]
    ended = _last_before(
        events.cpu[last[open_]].astype(np.int64),
        last[open_],
        events.cpu[over].astype(np.int64),
        over,
    )
    result[open_] = (ended >= 0) & (over[ended] > first[open_]) if len(over) else False
    return result


def _targets(
    events: Events, vcpus: Vcpus, accepts: _Accepts, started: Array
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """The target vCPU of each accept, and whether that is certain.

    apicid is the target's vcpu_id. Where several vCPUs have it, the poster tells: a
    vCPU's own thread posts within its VM; a post that woke one of them meant that
    one; and a thread that meant one of them before means it again.
    """
    n = len(accepts.rows)
    vcpu = np.full(n, -1, np.int32)
    certain = np.ones(n, np.bool_)
    shared: list[tuple[int, list[int]]] = []
    # of those accepts: index into `shared`
    which = np.full(n, -1, np.int64)
    for vcpu_id in np.unique(accepts.apicid).tolist():
        candidates = vcpus.candidates(vcpu_id)
        if len(candidates) == 1:
            vcpu[accepts.apicid == vcpu_id] = candidates[0]
        elif candidates:
            which[accepts.apicid == vcpu_id] = len(shared)
            shared.append((vcpu_id, candidates))
    open_ = np.flatnonzero(which >= 0)
    if not len(open_):
        return vcpu, certain
    which = which[open_]
    tid = events.tid[accepts.rows[open_]]
    irq = (events.flags[accepts.rows[open_]] & _ANY_IRQ) != 0
    woken = _woken(events, vcpus, accepts, started)[open_]
    is_candidate = np.zeros((len(vcpus), len(shared)), np.bool_)
    for i, (_, candidates) in enumerate(shared):
        is_candidate[candidates, i] = True

    found = np.where(irq, -1, _within_vm(vcpus, vcpus.of_tid(tid), which, shared))
    meant = (found < 0) & (woken >= 0)
    meant[meant] = is_candidate[woken[meant], which[meant]]
    found[meant] = woken[meant]

    context = tid.astype(np.int64) * len(shared) + which
    told = np.flatnonzero(found >= 0)
    asking = np.flatnonzero((found < 0) & ~irq)
    if len(told) and len(asking):
        known, at = np.unique(context[told], return_inverse=True)
        least = np.full(len(known), len(vcpus), np.int64)
        most = np.full(len(known), -1, np.int64)
        np.minimum.at(least, at, found[told])
        np.maximum.at(most, at, found[told])
        at = np.minimum(np.searchsorted(known, context[asking]), len(known) - 1)
        again = (known[at] == context[asking]) & (least[at] == most[at])
        found[asking[again]] = least[at[again]]
        certain[open_[asking[again]]] = False
    vcpu[open_] = found
    return vcpu, certain


def _within_vm(
    vcpus: Vcpus, poster: Array, which: Array, shared: list[tuple[int, list[int]]]
) -> npt.NDArray[np.int64]:
    """The candidate in the VM of the vCPU that posts, for each accept: or -1."""
    pairs, of = np.unique(
        poster.astype(np.int64) * len(shared) + which, return_inverse=True
    )
    found = []
    for pair in pairs.tolist():
        posting, asked = divmod(pair, len(shared))
        same = _same_vm(vcpus, posting, shared[asked][1])
        found.append(-1 if same is None else same)
    return np.array(found, np.int64)[of]


def _same_vm(vcpus: Vcpus, poster: int, candidates: list[int]) -> int | None:
    if poster < 0:
        return None
    if poster in candidates:
        return poster
    vm = vcpus.rows[poster].vm
    same = [c for c in candidates if vm is not None and vcpus.rows[c].vm == vm]
    return same[0] if len(same) == 1 else None


def _woken(
    events: Events, vcpus: Vcpus, accepts: _Accepts, started: Array
) -> npt.NDArray[np.int32]:
    """The vCPU that was woken within each accept's call chain, or -1."""
    found = np.full(len(accepts.rows), -1, np.int32)
    for name in ("sched_waking", "sched_wakeup"):
        tid = events.column(name, "pid", np.int32)
        if tid is None:
            continue
        rows = events.rows(name)
        target = vcpus.of_tid(tid)
        rows, target = rows[target >= 0], target[target >= 0]
        # in the same context: an interrupt in between may wake anyone
        last = _last_before(
            _contexts(events, accepts.rows),
            accepts.rows,
            _contexts(events, rows),
            rows,
        )
        inside = last >= 0
        inside &= rows[last] > started
        found = np.where(inside, target[last], found)
    return found
