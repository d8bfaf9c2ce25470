"""Where the trace leaves open in which order a descriptor met things, or whether.

Four cases; the first three have a letter that means "this, or nothing" where the answer
can't be known, and what follows (a probe, an entry) narrows it down again:

    KVM's post     kvm_apic_accept_irq ... [PIR, ON] ... kvm_apicv_accept_irq
    its target           kvm_exit of the target in between: before, or behind?

    unknown target   one of several vCPUs with that vcpu_id has its ON set

    a halt's load    switch in, load, [check_block: sync], switch out runnable:
                     the thread may have been preempted before it came to the check

    posts together   another post to the vCPU begins while KVM is posting: the first
                     that reaches PIR and ON silences the other
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.outcomes import Hit, hit_bits
from piscope.replay.hidden_posts import maybe_targets
from piscope.sources.raw import Array
from piscope.tables import Acts, Posts, PutReason, Timeline

__all__ = (
    "OpenPosts",
    "first_together",
    "open_posts",
    "open_syncs",
    "straddles",
    "widen_open_orders",
)

# piscope.timeline.lifecycle.Act
_PUT = 2

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
    """

    hidden: npt.NDArray[np.bool_]
    by_kvm: npt.NDArray[np.bool_]
    straddling: npt.NDArray[np.bool_]
    over: npt.NDArray[np.bool_]
    together: npt.NDArray[np.bool_]
    if_first: npt.NDArray[np.uint16]


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
    under way together: each may have been the first, or found ON set by another.
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
