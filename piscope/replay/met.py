"""What each post met, whatever the policy: its target's doings and the trace's doubts.

Worked out once and shared by all policies, which differ in the descriptor only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.outcomes import Row, row_bits
from piscope.replay.hidden_posts import WindowPosts, window_of, window_posts
from piscope.replay.open_order import first_together, loose_edges, straddles
from piscope.replay.pcpus import Occupancy
from piscope.replay.rows import Targets, rows_of, taken_as_exit
from piscope.replay.stimuli import Stimuli
from piscope.sources.raw import Array
from piscope.tables import Intervals, Kind, Timeline

__all__ = ("Met", "what_posts_met")

_POSTS = np.zeros(len(Letter), np.bool_)
_POSTS[
    [
        Letter.POST_HW,
        Letter.POST_SW_NEW,
        Letter.POST_SW_AGAIN,
        Letter.POST_SW_EITHER,
    ]
] = True


@dataclass(frozen=True, slots=True)
class Met:
    """The posts among the stimuli, in their order, and what surrounds each one.

    targets     who they were meant for, and in which window or kind of interval
    ts_ns       int64[n]
    reason      int32[n]   the VM-exit reason its target was handling, -1: none
    cpu         int32[n]   the pCPU that NDST names
    sure        bool[n]    the timeline is certain of the target's kind or window
    rows        uint32[n]  the rows of the state table that the timeline allows
    exits       bool[n]    a notification in guest mode surely ended the guest's run
    maybe_exits bool[n]    or may have
    straddling  bool[n]    its target did something while KVM was posting
    over        bool[n]    of those: the window it began in was over by then
    first       int64[n]   of posts under way at once the first, by index; -1: alone
    before      int64[n]   the letter before which it was posted, by index of STIMULI,
                           if it came before a loose edge (open_order); -1: at none
    from_window int64[n]   then the window that the edge ends, -1: it is a put
    windows     what was posted into each window
    """

    targets: Targets
    ts_ns: npt.NDArray[np.int64]
    reason: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int32]
    sure: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.uint32]
    exits: npt.NDArray[np.bool_]
    maybe_exits: npt.NDArray[np.bool_]
    straddling: npt.NDArray[np.bool_]
    over: npt.NDArray[np.bool_]
    first: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    from_window: npt.NDArray[np.int64]
    windows: WindowPosts


def what_posts_met(timeline: Timeline, stimuli: Stimuli, places: Occupancy) -> Met:
    """Look up every post among the stimuli, once for all policies."""
    post = np.flatnonzero(_POSTS[stimuli.letter])
    ts_ns, row, vcpu = stimuli.ts_ns[post], stimuli.row[post], stimuli.vcpu[post]
    traced = stimuli.post[post]
    hidden = traced < 0
    w = timeline.windows
    window = np.where(hidden, stimuli.window[post], window_of(w, vcpu, row))
    kind, reason, cpu_now, sure = _doing(timeline.intervals, vcpu, ts_ns)
    unloaded = window >= 0
    at = np.maximum(window, 0)
    if len(w):
        sure &= ~unloaded | w.certain[at]
    cpu = np.where(unloaded, w.put_cpu[at] if len(w) else -1, cpu_now)
    n_events = len(places.events)
    targets = Targets.of(timeline, stimuli, post, window, kind, n_events)
    exits, maybe_exits = taken_as_exit(timeline, places.events, targets)
    posts = timeline.posts
    meanwhile = straddles(posts, timeline.acts, n_events)
    straddling = ~hidden & np.append(meanwhile, False)[np.maximum(traced, 0)]
    # until when a post was under way; one by hardware takes no time
    end = row.copy()
    by_kvm = np.flatnonzero(~hidden & (stimuli.letter[post] != Letter.POST_HW))
    end[by_kvm] = posts.row[traced[by_kvm]]
    over = straddling & unloaded
    if len(w):
        over &= w.end_row[at] <= end
    before, from_window = _before_edges(timeline, stimuli, places, post)
    rows = rows_of(timeline, targets, places)
    rows[(before >= 0) & (from_window < 0)] |= row_bits(Row.PUT_RUNNING)
    rows[from_window >= 0] |= row_bits(Row.SWITCHED_IN)
    return Met(
        targets=targets,
        ts_ns=ts_ns,
        reason=reason,
        cpu=cpu.astype(np.int32),
        sure=sure,
        rows=rows,
        exits=exits,
        maybe_exits=maybe_exits,
        straddling=straddling,
        over=over,
        first=_first(vcpu, row, end, np.flatnonzero(~hidden)),
        before=before,
        from_window=from_window,
        windows=window_posts(timeline),
    )


def _before_edges(
    timeline: Timeline, stimuli: Stimuli, places: Occupancy, post: Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`before` and `from_window` of Met."""
    before, from_window = np.full((2, len(post)), -1, np.int64)
    seen = np.flatnonzero(stimuli.post[post] >= 0)
    edges = loose_edges(timeline, places.events)
    edge = edges.of(stimuli.vcpu[post[seen]], stimuli.row[post[seen]])
    loose = seen[edge >= 0]
    edge = edge[edge >= 0]
    if not len(loose):
        return before, from_window
    vcpu, row = edges.vcpu[edge], edges.row[edge]
    # one MAYBE_POST_SW for each post of an edge, in front of its own letter
    span = len(places.events) + 1
    key = stimuli.vcpu.astype(np.int64) * span + stimuli.row
    at = np.searchsorted(key, vcpu.astype(np.int64) * span + row)
    at += stimuli.letter[at] == Letter.FORGET
    before[loose] = at + np.arange(len(edge)) - np.searchsorted(edge, edge)
    loads = ~edges.put[edge]
    from_window[loose[loads]] = window_of(timeline.windows, vcpu, row - 1)[loads]
    return before, from_window


def _first(vcpu: Array, begin: Array, end: Array, seen: Array) -> Array:
    """Of posts under way at once the first, among those that an event shows."""
    result = np.full(len(vcpu), -1, np.int64)
    first = first_together(vcpu[seen], begin[seen], end[seen])
    result[seen] = np.where(first >= 0, seen[np.maximum(first, 0)], -1)
    return result


def _doing(
    intervals: Intervals, vcpu: Array, ts_ns: Array
) -> tuple[
    npt.NDArray[np.uint8],
    npt.NDArray[np.int32],
    npt.NDArray[np.int32],
    npt.NDArray[np.bool_],
]:
    """What each vCPU was doing at an instant: kind, exit reason, pCPU, certain."""
    if not len(intervals):
        none = np.full(len(vcpu), -1, np.int32)
        return np.zeros(len(vcpu), np.uint8), none, none, np.zeros(len(vcpu), np.bool_)
    base = int(intervals.start_ns.min())
    span = int(intervals.end_ns.max()) - base + 2
    key = intervals.vcpu.astype(np.int64) * span + (intervals.start_ns - base)
    wanted = vcpu.astype(np.int64) * span + np.maximum(ts_ns - base, 0)
    at = np.maximum(np.searchsorted(key, wanted, side="right") - 1, 0)
    return (
        intervals.kind[at],
        intervals.reason[at],
        intervals.cpu[at],
        intervals.certain[at] & (intervals.kind[at] != Kind.UNKNOWN),
    )
