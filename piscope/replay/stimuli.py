"""What each descriptor met, in order, as the letters that the model reads (STIMULI).

    windows  put, load; OBSERVE where a probe read ON and PIR; a POST_HW where the
             window betrays one
    acts     sync, entry, exit
    posts    by hardware or by KVM, as the question asks
    losses   FORGET behind each, and before each letter while events are missing:
             whatever was posted there was not seen

The order within one event is fixed: what a probe saw (or, where none does, a post that
may have come before a put or load), the sync before a sleep, the put or load, what the
probe saw after it, the sync that follows, entry and exit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.origins import Given
from piscope.posted import Posted
from piscope.replay.hidden_posts import window_posts
from piscope.replay.open_order import loose_edges, open_posts, open_syncs
from piscope.replay.posted import by_hardware
from piscope.sources.raw import Array
from piscope.tables import Acts, Events, Posts, PutReason, Timeline, Windows

__all__ = ("Stimuli", "build_stimuli")

# piscope.timeline.lifecycle.Act: the bits are part of the ACTS table
_LOAD, _PUT, _ENTER, _EXIT, _SYNC_BEFORE, _SYNC_AFTER = 1, 2, 4, 8, 16, 32


class _Place(IntEnum):
    """The order of letters that come from one event."""

    OBSERVED_BEFORE = 0
    MAYBE_POST = 0  # where no probe observes
    SYNC_BEFORE = 1
    LOAD_OR_PUT = 2
    OBSERVED_AFTER = 3
    SYNC_AFTER = 4
    ENTER_OR_EXIT = 5
    POST = 6
    HIDDEN_POST = 7


_PLACE_BITS = 3
assert len(_Place) <= 1 << _PLACE_BITS


@dataclass(slots=True)
class Stimuli:
    """All letters, vCPU after vCPU, in order.

    letter  uint8[n]  model.letters.Letter
    vcpu    int32[n]
    starts  int64[v]  first index of each vCPU's letters
    ts_ns   int64[n]
    row     int64[n]  the event it rests on
    cpu     int32[n]  that event's pCPU
    window  int32[n]  index of the window a PUT, LOAD or hidden post belongs to, or -1
    post    int64[n]  index into POSTS for a traced post, else -1
    vector  int16[n]  of posts, -1: not known
    """

    letter: npt.NDArray[np.uint8]
    vcpu: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    ts_ns: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    cpu: npt.NDArray[np.int32]
    window: npt.NDArray[np.int32]
    post: npt.NDArray[np.int64]
    vector: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.letter)


_PUT_LETTER = np.full(len(PutReason), Letter.PUT_RUN_NOT, np.uint8)
_PUT_LETTER[PutReason.PREEMPTED] = Letter.PUT_RUN_PREEMPTED
_PUT_LETTER[PutReason.BLOCKING] = Letter.PUT_BLOCK_IF1_NOT
_PUT_LETTER[PutReason.BLOCKING_IRQS_BLOCKED] = Letter.PUT_BLOCK_IF0_NOT
_PUT_LETTER[PutReason.BLOCKING_PREEMPTED] = Letter.PUT_BLOCK_IF1_PREEMPTED


# What a letter refers to, in one number: a window, a post (_FIRST_POST - its index), or
# neither.
_NEITHER, _FIRST_POST = -1, -2


def build_stimuli(timeline: Timeline, events: Events, posted: Posted) -> Stimuli:
    """Turn a timeline into each descriptor's letters, in order.

    What `posted` names (replay.posted) becomes posts by hardware at POSTS.cause, and
    the software post's own effects are dropped; the others stay the posts by KVM that
    they were.
    """
    w, acts, posts = timeline.windows, timeline.acts, timeline.posts
    parts: list[tuple[Array, Array, Array]] = []
    span = len(events) + 1

    def add(
        vcpu: Array, row: Array, place: _Place, what: Array | Letter, ref: Array | int
    ) -> None:
        key = vcpu.astype(np.int64)
        key *= span
        key += row
        key <<= _PLACE_BITS
        key += place
        n = len(key)
        letter = what if isinstance(what, np.ndarray) else np.full(n, what, np.uint8)
        refs = ref if isinstance(ref, np.ndarray) else np.full(n, ref, np.int32)
        letter = letter.astype(np.uint8, copy=False)
        parts.append((key, letter, refs.astype(np.int32, copy=False)))

    # the bulk first: it is in order already, and what follows is merged into it
    enter, leave = (acts.act & _ENTER) != 0, (acts.act & _EXIT) != 0
    at = np.flatnonzero(enter | leave)
    letter = np.where(leave[at], np.uint8(Letter.EXIT), np.uint8(Letter.ENTER))
    add(acts.vcpu[at], acts.row[at], _Place.ENTER_OR_EXIT, letter, _NEITHER)
    # an entry that no event shows comes before the exit that does
    at = np.flatnonzero(enter & leave)
    add(acts.vcpu[at], acts.row[at], _Place.SYNC_AFTER, Letter.ENTER, _NEITHER)
    open_ = open_syncs(timeline)
    for bit, place in (
        (_SYNC_BEFORE, _Place.SYNC_BEFORE),
        (_SYNC_AFTER, _Place.SYNC_AFTER),
    ):
        at = np.flatnonzero(acts.act & bit)
        if bit == _SYNC_BEFORE:  # check_block looks at PIR only if it may deliver
            blocked = w.put_row[w.reason == PutReason.BLOCKING_IRQS_BLOCKED]
            at = at[~np.isin(acts.row[at], blocked)]
        letter = np.where(open_[at], np.uint8(Letter.MAYBE_SYNC), np.uint8(Letter.SYNC))
        add(acts.vcpu[at], acts.row[at], place, letter, _NEITHER)

    # switched out runnable in a halt: its check may have come before
    at = np.flatnonzero((w.reason == PutReason.PREEMPTED) & ~w.certain)
    add(w.vcpu[at], w.put_row[at], _Place.SYNC_BEFORE, Letter.MAYBE_SYNC, _NEITHER)

    index = np.arange(len(w), dtype=np.int32)
    add(w.vcpu, w.put_row, _Place.LOAD_OR_PUT, _PUT_LETTER[w.reason], index)
    at = np.flatnonzero(acts.act & _LOAD)
    loads = _load_letters(acts, at)
    add(acts.vcpu[at], acts.row[at], _Place.LOAD_OR_PUT, loads, _NEITHER)

    real = np.flatnonzero(posts.posted & (posts.vcpu >= 0))
    hardware = by_hardware(posts, posted)
    letter = np.where(hardware[real], Letter.POST_HW, Letter.POST_SW_EITHER)
    at = np.where(hardware, posts.cause, posts.at)[real]
    add(posts.vcpu[real], at, _Place.POST, letter, _FIRST_POST - real)
    edges = loose_edges(timeline, events)
    edge = edges.of(posts.vcpu[real], at)
    loose = edge >= 0
    target, row, edge = posts.vcpu[real[loose]], at[loose], edge[loose]
    # before the put or load as well; one behind it then finds its vector in PIR
    add(target, edges.row[edge], _Place.MAYBE_POST, Letter.MAYBE_POST_SW, _NEITHER)
    synced = edges.syncs[edge]
    at = row[synced]
    add(target[synced], at, _Place.HIDDEN_POST, Letter.MAYBE_SYNC, _NEITHER)
    as_kvm = posts.posted & ~hardware
    target, row = open_posts(timeline, as_kvm, len(events))
    add(target, row, _Place.HIDDEN_POST, Letter.MAYBE_POST_SW, _NEITHER)
    at = np.flatnonzero(window_posts(timeline).hidden)
    add(w.vcpu[at], w.put_row[at], _Place.HIDDEN_POST, Letter.POST_HW, at)
    at = np.flatnonzero((w.on_before >= 0) & (w.pir_before >= 0))
    seen = _observed(w.on_before[at], w.pir_before[at])
    add(w.vcpu[at], w.put_row[at], _Place.OBSERVED_BEFORE, seen, at)
    # at the load's end ON is set if PIR holds anything (`after_clear_sn`)
    at = np.flatnonzero((w.load_row >= 0) & (w.on_load >= 0) & (w.pir_load >= 0))
    seen = _observed(w.on_load[at] | w.pir_load[at], w.pir_load[at])
    add(w.vcpu[at], w.load_row[at], _Place.OBSERVED_AFTER, seen, at)

    key = np.concatenate([part[0] for part in parts])
    letter = np.concatenate([part[1] for part in parts])
    ref = np.concatenate([part[2] for part in parts])
    parts.clear()
    order = np.argsort(key, kind="stable")
    key, letter, ref = key[order], letter[order], ref[order]
    del order
    key >>= _PLACE_BITS
    vcpus = np.arange(len(timeline.vcpus))
    counts = np.diff(np.searchsorted(key, vcpus * span), append=len(key))
    vcpu = np.repeat(vcpus.astype(np.int32), counts)
    row = key
    row -= np.repeat(vcpus * span, counts)
    window = np.where(ref >= 0, ref, np.int32(-1))
    post = np.where(ref <= _FIRST_POST, _FIRST_POST - ref, np.int64(-1))
    del ref
    forget = _forgets(timeline.blind, vcpu, row)
    if len(forget):
        vcpu = np.insert(vcpu, forget, vcpu[forget])
        row = np.insert(row, forget, row[forget])
        letter = np.insert(letter, forget, Letter.FORGET)
        window, post = np.insert(window, forget, -1), np.insert(post, forget, -1)
    return Stimuli(
        letter=letter,
        vcpu=vcpu,
        starts=np.searchsorted(vcpu, np.arange(len(timeline.vcpus))).astype(np.int64),
        ts_ns=_instants(events, posts, row, post),
        row=row,
        cpu=events.cpu[row],
        window=window,
        post=post,
        vector=_vectors(letter, window, post, w, posts),
    )


def _instants(
    events: Events, posts: Posts, row: Array, post: Array
) -> npt.NDArray[np.int64]:
    ts_ns = events.ts_ns[row]
    # what a user gave lies between two events
    given = np.flatnonzero(post >= 0)
    given = given[posts.given[post[given]] != Given.TRACED]
    ts_ns[given] = posts.ts_ns[post[given]]
    return ts_ns


def _forgets(blind: Array, vcpu: Array, row: Array) -> npt.NDArray[np.int64]:
    """The letters before which nothing is known of the descriptor, by index.

    Those are the letters at rows from which events are missing, and the first one of
    each vCPU behind such rows.
    """
    if not len(blind):
        return np.empty(0, np.int64)
    begun = np.searchsorted(blind[:, 0], row, side="right")
    over = np.searchsorted(blind[:, 1], row, side="right")
    forget = begun > over
    forget[1:] |= (vcpu[1:] == vcpu[:-1]) & (
        (begun[1:] != begun[:-1]) | (over[1:] != over[:-1])
    )
    return np.flatnonzero(forget)


def _load_letters(acts: Acts, loads: Array) -> npt.NDArray[np.uint8]:
    """LOAD_SAME or LOAD_OTHER: whether the vCPU was last loaded on this pCPU.

    A trace's first load of a vCPU has no predecessor in it; the pCPU of an act before
    it (the put, say) is where it was loaded then.
    """
    previous = np.maximum(loads - 1, 0)
    known = (loads > 0) & (acts.vcpu[previous] == acts.vcpu[loads])
    same = known & (acts.cpu[previous] == acts.cpu[loads])
    return np.where(same, Letter.LOAD_SAME, Letter.LOAD_OTHER).astype(np.uint8)


def _observed(on: Array, pir: Array) -> npt.NDArray[np.uint8]:
    first = int(Letter.OBSERVE_ON0_PIR0)  # then ON0_PIR1, ON1_PIR0, ON1_PIR1
    return (first + 2 * on.astype(np.int64) + pir.astype(np.int64)).astype(np.uint8)


def _vectors(
    letter: Array, window: Array, post: Array, w: Windows, posts: Posts
) -> npt.NDArray[np.int16]:
    vector = np.full(len(letter), -1, np.int16)
    traced = post >= 0
    vector[traced] = posts.vector[post[traced]]
    hidden = np.flatnonzero((letter == Letter.POST_HW) & ~traced)
    bits = w.new_pir[window[hidden]]
    # the lowest vector that PIR gained; ON alone tells none
    word = np.argmax(bits != 0, axis=1)
    value = bits[np.arange(len(hidden)), word]
    low = value & (~value + np.uint64(1))
    place = np.where(low > 0, np.log2(np.maximum(low, 1).astype(np.float64)), 0)
    vector[hidden] = np.where(value > 0, word * 64 + place, -1).astype(np.int16)
    return vector
