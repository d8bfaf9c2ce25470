"""Where the trace leaves open in which order a descriptor met things, or whether.

Five cases; all but one have a letter that means "this, or nothing" where the answer
can't be known, and what follows (a probe, an entry) narrows it down again:

    KVM's post     kvm_apic_accept_irq ... [PIR, ON] ... kvm_apicv_accept_irq
    its target           kvm_exit of the target in between: before, or behind?

    unknown target   one of several vCPUs with that vcpu_id has its ON set

    a halt's load    switch in, load, [check_block: sync], switch out runnable:
                     the thread may have been preempted before it came to the check

    posts together   another post to the vCPU begins while KVM is posting: the first
                     that reaches PIR and ON silences the other

    a loose edge     kvm_fpu load=0 ... [pi_put] ... kvm_userspace_exit
                     sched_switch, an interrupt ... [pi_load] ... the thread goes on
                     a post in between, no probe telling: before, or behind?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit, hit_bits
from piscope.replay.hidden_posts import maybe_targets
from piscope.replay.near_rows import NearRows
from piscope.replay.row_index import index_rows
from piscope.sources.raw import Array
from piscope.tables import Acts, Events, Posts, PutReason, Timeline

__all__ = (
    "LooseEdges",
    "OpenPosts",
    "first_together",
    "loose_edges",
    "open_posts",
    "open_syncs",
    "straddles",
    "widen_open_orders",
)

# piscope.timeline.lifecycle.Act
_LOAD, _PUT, _SYNC_AFTER = 1, 2, 32

# TRACE_FLAG_HARDIRQ, TRACE_FLAG_SOFTIRQ, include/linux/trace_events.h
_INTERRUPT = 0x08 | 0x10

# What a thread traces itself, for traces whose events have no flags.
_FIRM = (
    "kvm_entry",
    "kvm_exit",
    "kvm_fpu",
    "kvm_userspace_exit",
    "kvm_vcpu_wakeup",
    "sched_switch",
)

_RUNNABLE = (
    PutReason.PREEMPTED,
    PutReason.BLOCKING_PREEMPTED,
    PutReason.RUNNABLE,
    PutReason.UNKNOWN,
)


@dataclass(frozen=True, slots=True)
class OpenPosts:
    """What `widen_open_orders` has to know of each post that is replayed; bool[n].

    hidden     probes betray it, no event shows it
    by_kvm     replayed as KVM's own
    straddling its target did something while KVM was posting
    over       of those: the window it began in was over by then
    together   others to the same vCPU were under way
    if_first   uint16[n] the outcomes of those if each came first of them
    if_before  uint16[n] the outcomes of those at a loose edge if each came before the
               put or load; 0 elsewhere
    """

    hidden: npt.NDArray[np.bool_]
    by_kvm: npt.NDArray[np.bool_]
    straddling: npt.NDArray[np.bool_]
    over: npt.NDArray[np.bool_]
    together: npt.NDArray[np.bool_]
    if_first: npt.NDArray[np.uint16]
    if_before: npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class LooseEdges:
    """Puts and loads that come some time behind their event, vCPU after vCPU, in order.

    vcpu     int32[n]
    row      int64[n]  their event's row of EVENTS, where they are replayed
    end_row  int64[n]  by this row they are surely done
    put      bool[n]   a put; else a load
    syncs    bool[n]   a load with the sync of a halt's check behind it
    """

    vcpu: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]
    end_row: npt.NDArray[np.int64]
    put: npt.NDArray[np.bool_]
    syncs: npt.NDArray[np.bool_]

    def of(self, vcpu: Array, row: Array) -> npt.NDArray[np.int64]:
        """int64[m]: the edge that each (vCPU, row of EVENTS) may be before, or -1."""
        if not len(self.vcpu):
            return np.full(len(vcpu), -1, np.int64)
        span = int(max(self.row.max(), row.max(initial=0))) + 2
        key = self.vcpu.astype(np.int64) * span + self.row
        wanted = vcpu.astype(np.int64) * span + row
        at = np.searchsorted(key, wanted, side="right") - 1
        found = np.maximum(at, 0)
        loose = (at >= 0) & (self.vcpu[found] == vcpu) & (row < self.end_row[found])
        result: npt.NDArray[np.int64] = np.where(loose, at, -1)
        return result


def loose_edges(timeline: Timeline, events: Events) -> LooseEdges:
    """The puts and loads between which and their events a post may have come.

    A put is loose from kvm_fpu load=0 to the thread's next event. A load is behind the
    sched_switch if an interrupt came first: finish_task_switch() lets it in, then calls
    the notifier (pi_semantics 4.3, 6.2). What an interrupt traces is not the thread's
    own. Probes give the places themselves.
    """
    acts = timeline.acts
    some = acts.act & (_PUT | _LOAD)
    at = np.flatnonzero(some) if not timeline.probes else np.empty(0, np.int64)
    put = some[at] == _PUT
    of_event = events.event[acts.row[at]]
    by_fpu = put & np.isin(of_event, _named(events, "kvm_fpu"))
    by_switch = (some[at] == _LOAD) & np.isin(of_event, _named(events, "sched_switch"))
    at = at[by_fpu | by_switch]
    vcpu, row, put = acts.vcpu[at], acts.row[at], (acts.act[at] & _PUT) != 0
    of_tid, n = timeline.vcpus.of_tid, len(events)
    if events.info.events_flags:
        firm = (events.flags & _INTERRUPT) == 0
    else:
        firm = np.isin(events.event, _named(events, *_FIRM))

    def owner(rows: Array) -> Array:
        return np.where(firm[rows], of_tid(events.tid[rows]), np.int32(-1))

    every = np.arange(n)
    own = NearRows(n, owner, lambda: index_rows(owner(every), every, n))
    end_row = own.next_after(vcpu, row)
    end_row[end_row < 0] = n
    # up to the thread's next event, if an interrupt's comes before it
    loads = np.flatnonzero(~put)
    near = NearRows(
        n,
        lambda rows: of_tid(events.tid[rows]),
        lambda: index_rows(of_tid(events.tid), every, n),
    )
    loose = put.copy()
    loose[loads] = near.some_between(vcpu[loads], row[loads], end_row[loads])
    return LooseEdges(
        vcpu=vcpu[loose],
        row=row[loose],
        end_row=end_row[loose],
        put=put[loose],
        syncs=(acts.act[at[loose]] & _SYNC_AFTER) != 0,
    )


def first_together(vcpu: Array, begin: Array, end: Array) -> npt.NDArray[np.int64]:
    """int64[n]: of posts to one vCPU that are under way at once the first, -1: alone.

    `begin` and `end` are rows of EVENTS; the posts are by vCPU, then `begin`. One that
    begins where another ends is behind it, as are a user's between two events.
    """
    n = len(vcpu)
    if not n:
        return np.empty(0, np.int64)
    span = int(end.max()) + 1
    base = vcpu.astype(np.int64) * span
    reach = np.maximum.accumulate(base + end)
    alone = np.ones(n, np.bool_)
    alone[1:] = base[1:] + begin[1:] >= reach[:-1]
    first = np.maximum.accumulate(np.where(alone, np.arange(n), 0))
    members = np.bincount(first, minlength=n)
    result: npt.NDArray[np.int64] = np.where(members[first] > 1, first, -1)
    return result


def straddles(posts: Posts, acts: Acts, n_events: int) -> npt.NDArray[np.bool_]:
    """bool[posts]: whether the target did something while KVM was posting to it."""
    span = n_events + 1
    key = acts.vcpu.astype(np.int64) * span + acts.row
    target = posts.vcpu.astype(np.int64) * span
    following = np.searchsorted(key, target + posts.at, side="right")
    next_key = np.append(key, np.iinfo(np.int64).max)[following]
    result: npt.NDArray[np.bool_] = (posts.vcpu >= 0) & (next_key <= target + posts.row)
    return result


def _named(events: Events, *names: str) -> list[int]:
    """The events of those names, in any system, as indexes of EVENTS.names."""
    return [i for i, (_, name) in enumerate(events.names) if name in names]


def open_posts(
    timeline: Timeline, by_kvm: npt.NDArray[np.bool_], n_events: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """(vCPU, row) behind which a post of KVM's may or may not have had its effect.

    `by_kvm` bool[posts]: those that are replayed as KVM's own.
    """
    posts = timeline.posts
    straddling = by_kvm & straddles(posts, timeline.acts, n_events)
    vcpus: list[Array] = [posts.vcpu[straddling]]
    rows: list[Array] = [posts.row[straddling]]
    for vcpu, which in maybe_targets(timeline):
        for at in (posts.at[which], posts.row[which]):
            vcpus.append(np.full(len(which), vcpu, np.int32))
            rows.append(at)
    return np.concatenate(vcpus), np.concatenate(rows)


def open_syncs(timeline: Timeline) -> npt.NDArray[np.bool_]:
    """bool[acts]: whether the put that follows came maybe before the act's sync."""
    acts, w = timeline.acts, timeline.windows
    puts = np.flatnonzero((acts.act & _PUT) != 0)  # in the order of `w`
    early = puts[np.isin(w.reason, _RUNNABLE)]
    result = np.zeros(len(acts.act), np.bool_)
    result[early[early > 0] - 1] = True
    result[:-1] &= acts.vcpu[1:] == acts.vcpu[:-1]
    return result


def widen_open_orders(
    open_order: npt.NDArray[np.bool_],
    posts: OpenPosts,
    window: npt.NDArray[np.int64],
    possible: npt.NDArray[np.uint16],
) -> None:
    """Add the outcomes that a post has if another one came first, or came later.

    `open_order` bool[windows] is that of WindowPosts, `window` each post's, or -1. Of a
    window into which hardware posted unseen and KVM as well, each may have been
    the first: what the replay gave the unseen one, the first, or silence by ON. And a
    post of KVM's whose target entered or left its guest meanwhile found it in either
    place; its notification may have come behind the exit (pi_semantics 8.3, R5). Posts
    under way together: each may have been the first, or found ON set by another. At a
    loose edge: what it would have met before the put or the load.
    """
    inside = window >= 0
    at = np.flatnonzero(inside)
    at = at[open_order[window[at]]]
    first = np.zeros(len(open_order), np.uint16)
    unseen = at[posts.hidden[at]]
    first[window[unseen]] = possible[unseen]
    by_hardware = at[~posts.by_kvm[at]]
    possible[by_hardware] |= first[window[by_hardware]]
    possible[at] |= hit_bits(Hit.SILENT_ON)
    possible[at[posts.by_kvm[at]]] |= hit_bits(Hit.SOFTWARE)
    straddling = posts.by_kvm & posts.straddling
    possible[straddling] |= hit_bits(Hit.SOFTWARE)
    outside = straddling & (~inside | posts.over)
    possible[outside] |= hit_bits(Hit.GUEST, Hit.HOST)
    possible[posts.together] |= posts.if_first[posts.together]
    possible[posts.together] |= hit_bits(Hit.SILENT_ON)
    possible[posts.together & posts.by_kvm] |= hit_bits(Hit.SOFTWARE, Hit.SILENT_PIR)
    possible |= posts.if_before
