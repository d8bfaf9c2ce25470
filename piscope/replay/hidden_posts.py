"""Windows into which hardware posted unseen, as the probes at their ends betray.

    pi_put ------------------------------- pi_load
    ON=0, PIR={}     post by hardware      ON=1, or PIR={0x41}

What KVM posted meanwhile is known, and explains as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.sources.raw import Array
from piscope.tables import Timeline, Windows

__all__ = ("WindowPosts", "maybe_targets", "window_of", "window_posts")


@dataclass(frozen=True, slots=True)
class WindowPosts:
    """What was posted into each window, in the order of WINDOWS; bool[n] each.

    by_kvm      KVM posted into it, or may have
    hidden      hardware did, as its probes betray
    open_order  both, and which of them came first is not known
    """

    by_kvm: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]
    open_order: npt.NDArray[np.bool_]


def window_posts(timeline: Timeline) -> WindowPosts:
    """Tell what KVM posted into each window, and what hardware did unseen.

    Only probed windows can tell. A bit that PIR gained, or ON set while SN was 0, is
    a post; where KVM posted into the same window, or may have, only a vector that KVM
    did not post is surely not KVM's, and which of them came first stays open.
    """
    w = timeline.windows
    gained = w.probed & w.new_pir.any(axis=1)
    turned_on = w.probed & (w.on_put == 0) & (w.on_load == 1)
    by_kvm, kvm_bits = _posts_of_kvm(timeline)
    foreign = (w.new_pir & ~kvm_bits).any(axis=1) & w.probed
    hidden = np.where(by_kvm, foreign, gained | turned_on)
    # what the user gave explains what the probes read, but for other vectors
    some, bits = _given_by_hardware(timeline)
    hidden &= ~some | ((w.new_pir & ~kvm_bits & ~bits).any(axis=1) & w.probed)
    return WindowPosts(by_kvm, hidden, hidden & by_kvm)


def _given_by_hardware(timeline: Timeline) -> tuple[Array, Array]:
    """Per window: whether the user gave a post by hardware in it; their PIR bits."""
    w, posts = timeline.windows, timeline.posts
    which = np.flatnonzero(posts.given_by_hardware)
    at = window_of(w, posts.vcpu[which], posts.at[which])
    which, at = which[at >= 0], at[at >= 0]
    some = np.zeros(len(w), np.bool_)
    some[at] = True
    bits = np.zeros((len(w), 4), np.uint64)
    vector = posts.vector[which].astype(np.int64)
    bit = np.uint64(1) << (vector & 63).astype(np.uint64)
    np.bitwise_or.at(bits, (at, vector >> 6), bit)
    return some, bits


def _posts_of_kvm(timeline: Timeline) -> tuple[Array, Array]:
    """Per window: whether KVM posted into it, and the vectors as PIR bits.

    A post whose target is not known counts for every vCPU that it may have meant, and
    one that was under way when the window began, or ended, counts as well.
    """
    w, posts = timeline.windows, timeline.posts
    some = np.zeros(len(w), np.bool_)
    bits = np.zeros((len(w), 4), np.uint64)

    def add(which: Array, vcpu: Array) -> None:
        for row in (posts.at, posts.row):
            at = window_of(w, vcpu, row[which])
            inside = at >= 0
            at, vector = at[inside], posts.vector[which[inside]].astype(np.int64)
            some[at] = True
            bit = np.uint64(1) << (vector & 63).astype(np.uint64)
            np.bitwise_or.at(bits, (at, vector >> 6), bit)

    by_kvm = posts.posted & ~posts.given_by_hardware
    known = np.flatnonzero(by_kvm & (posts.vcpu >= 0))
    add(known, posts.vcpu[known])
    for vcpu, which in maybe_targets(timeline):
        add(which, np.full(len(which), vcpu, np.int32))
    return some, bits


def window_of(w: Windows, vcpu: Array, row: Array) -> npt.NDArray[np.int64]:
    """The window in which each (vCPU, row of EVENTS) lies, -1: the vCPU is loaded."""
    if not len(w):
        return np.full(len(vcpu), -1, np.int64)
    span = int(max(w.put_row.max(initial=0), row.max(initial=0))) + 2
    key = w.vcpu.astype(np.int64) * span + w.put_row
    at = np.searchsorted(key, vcpu.astype(np.int64) * span + row, side="right") - 1
    found = np.maximum(at, 0)
    inside = (at >= 0) & (w.vcpu[found] == vcpu)
    inside &= row < w.end_row[found]
    result: npt.NDArray[np.int64] = np.where(inside, at, -1)
    return result


def maybe_targets(timeline: Timeline) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """Each vCPU that posts of unknown target may have meant, with those posts."""
    posts = timeline.posts
    unknown = np.flatnonzero(posts.posted & (posts.vcpu < 0))
    found = []
    for vcpu_id in np.unique(posts.vcpu_id[unknown]).tolist():
        same_id = unknown[posts.vcpu_id[unknown] == vcpu_id]
        found += [(vcpu, same_id) for vcpu in timeline.vcpus.candidates(vcpu_id)]
    return found
