"""Where a post at an unseen instant would notify, and how long since it could not have.

Each vCPU's time is cut where its descriptor changes (letters), where its own doing does
(INTERVALS), and, while it is not loaded, where the guest mode of others begins or ends
on the pCPU that a notification would go to. Within such a piece every instant is like
every other, so the replay is asked once a piece what a post there would come to.

    letter     EXIT     PUT                            LOAD     ENTER
    pCPU                     | vCPU 2 in guest |
    pieces     [ host  ][ 12 ][ wrong vCPU     ][ 12  ][ host  ]
    since      0 ---------------------------------------------->   the epoch's start

What is listed is under which instant the *first* post of an epoch notifies; whether it
was the first depends on the rate, and follows in `rates`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from piscope.model.letters import Letter
from piscope.model.policy import DEFAULT_PLATFORM, Platform
from piscope.outcomes import Exposure, Findings, Hit, hit_bits
from piscope.replay.automaton import Automaton
from piscope.replay.findings import Replayed, find
from piscope.replay.first_post import FirstPost
from piscope.replay.hidden_posts import window_of
from piscope.replay.pcpus import Occupancy, Stretches
from piscope.replay.pre_block import with_pre_block
from piscope.replay.scan import Walk, scan
from piscope.replay.software_posts import classify_software_posts
from piscope.replay.stimuli import Stimuli
from piscope.sources.raw import Array
from piscope.tables import Events, Kind, Timeline

__all__ = ("SPURIOUS", "Openings", "arrivals_from", "bare", "open_pieces")

SPURIOUS = (Hit.HOST, Hit.UNLOADED_HOST, Hit.WRONG_VCPU)
"""Outcomes of a notification that nobody needs, wherever it is taken."""

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_OBSERVED = (
    Letter.OBSERVE_ON0_PIR0,
    Letter.OBSERVE_ON0_PIR1,
    Letter.OBSERVE_ON1_PIR0,
    Letter.OBSERVE_ON1_PIR1,
)
# piscope.timeline.lifecycle.Act: the bits are part of the ACTS table
_ENTER, _EXIT = 4, 8
# Pieces that the replay is asked about at a time: bounds the memory that it takes.
_CHUNK = 1 << 20


@dataclass(slots=True)
class Openings:
    """Pieces of time, or known posts, that may notify the host under one policy.

    vcpu      int32[n]
    cpu       int32[n]   the pCPU that is notified, -1: not known
    possible  uint16[n]  what becomes of the notification, bit 1 << Hit each
    settled   bool[n]    stretches that leave no event (rows 7 to 9 of the state table)
                         can't make it anything else
    window    int64[n]   the window it lies in, -1: the vCPU is loaded
    epoch     int64[n]   the epoch: not more than one notification each
    after_s   float64[n] seconds from the epoch's start to the piece's
    until_s   float64[n] and to its end; inf for a known post, which is at `after_s`
    epoch_most, after_most_s, until_most_s   the same, if what may have forgotten
                         earlier posts did: as many epochs as the trace allows
    vcpus     how many vCPUs the trace has
    """

    vcpu: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int32]
    possible: npt.NDArray[np.uint16]
    settled: Bools
    window: Int64
    epoch: Int64
    after_s: npt.NDArray[np.float64]
    until_s: npt.NDArray[np.float64]
    epoch_most: Int64
    after_most_s: npt.NDArray[np.float64]
    until_most_s: npt.NDArray[np.float64]
    vcpus: int

    def __len__(self) -> int:
        return len(self.vcpu)

    def surely(self, *hits: Hit) -> Bools:
        """bool[n]: a notification there can only have one of these outcomes."""
        result: Bools = (self.possible & ~hit_bits(*hits)) == 0
        return result

    def maybe(self, *hits: Hit) -> Bools:
        """bool[n]: it may have one of them."""
        result: Bools = (self.possible & hit_bits(*hits)) != 0
        return result


def bare(stimuli: Stimuli, events: Events) -> Stimuli:
    """The stimuli without what probes betrayed of posts by hardware.

    A rate stands for those; what the probes read of ON and PIR is theirs, too. Each
    vCPU's letters begin with the trace, since posts may.
    """
    letter = stimuli.letter.copy()
    letter[np.isin(letter, _OBSERVED)] = Letter.NOP
    letter[(letter == Letter.POST_HW) & (stimuli.post < 0)] = Letter.NOP
    at, vcpus = stimuli.starts, np.arange(len(stimuli.starts))
    return Stimuli(
        letter=np.insert(letter, at, Letter.NOP),
        vcpu=np.insert(stimuli.vcpu, at, vcpus),
        starts=at + vcpus,
        ts_ns=np.insert(stimuli.ts_ns, at, events.ts_ns[0]),
        row=np.insert(stimuli.row, at, 0),
        cpu=np.insert(stimuli.cpu, at, events.cpu[0]),
        window=np.insert(stimuli.window, at, -1),
        post=np.insert(stimuli.post, at, -1),
        vector=np.insert(stimuli.vector, at, -1),
    )


def arrivals_from(timeline: Timeline) -> npt.NDArray[np.int64]:
    """int64[vCPUs], ns: from when on posts may reach each vCPU.

    A VM's devices and IPIs are programmed by its guest, so none comes before the VM's
    first VM-entry; a first VM-exit says that it has run before. Where the trace does
    not tell VMs apart all count as one; a VM without either never has any.
    """
    acts, vcpus = timeline.acts, timeline.vcpus.rows
    ran = np.flatnonzero(acts.act & (_ENTER | _EXIT))
    first = np.full(len(vcpus), np.iinfo(np.int64).max)
    leaves = (acts.act[ran] & _EXIT) != 0
    vcpu, at = np.unique(acts.vcpu[ran], return_index=True)
    first[vcpu] = np.where(leaves[at], timeline.span_ns[0], acts.ts_ns[ran[at]])
    vm = [-1 if v.vm is None else v.vm for v in vcpus]
    of_vm = {
        one: min(t for t, of in zip(first, vm, strict=True) if of == one)
        for one in set(vm)
    }
    return np.array([of_vm[one] for one in vm], np.int64)


def open_pieces(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    exposure: Exposure,
    places: Occupancy,
    platform: Platform = DEFAULT_PLATFORM,
) -> Openings:
    """The openings of one policy; `stimuli` and its replay are without hidden posts.

    Windows are open as `exposure` has them: one whose reason is not certain may be.
    """
    stream = _stream(timeline, stimuli, replayed, platform, places)
    asked = _cut(timeline, stream, replayed.automaton, exposure, places)
    parts = [
        _told(timeline, stream, replayed, exposure, places, asked[at : at + _CHUNK])
        for at in range(0, len(asked), _CHUNK)
    ]
    parts.append(_known_posts(timeline, stimuli, replayed, places, stream))
    return _joined(stream, parts, len(timeline.vcpus))


@dataclass(slots=True)
class _Stream:
    """All letters of a policy, those included that STIMULI lack, with their epochs.

    place     int64[m]  where each letter of STIMULI is in this
    after     uint16[n] set of states behind each letter
    start     int64[n]  the letter that began the epoch in which the letter finds it
    start_most  likewise, if each letter that may have begun one did
    begin_ns, end_ns  from each letter to the next of the vCPU
    from_ns  int64[vCPUs] from when on posts may reach it
    """

    letter: npt.NDArray[np.uint8]
    vcpu: npt.NDArray[np.int32]
    row: Int64
    begin_ns: Int64
    end_ns: Int64
    place: Int64
    after: npt.NDArray[np.uint16]
    start: Int64
    start_most: Int64
    from_ns: Int64


def _stream(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    platform: Platform,
    places: Occupancy,
) -> _Stream:
    letter, vcpu, row, starts = (
        replayed.letters,
        stimuli.vcpu,
        stimuli.row,
        stimuli.starts,
    )
    own = np.ones(len(letter), np.bool_)
    after = replayed.walk.after
    if not replayed.policy.block_in_put:
        added = with_pre_block(timeline, stimuli)
        own = ~added.extra
        starts = added.starts
        letter = added.letters.copy()
        letter = classify_software_posts(
            letter, np.maximum(added.vector, 0), starts, replayed.automaton
        )
        vcpu, row = np.empty(len(own), np.int32), np.empty(len(own), np.int64)
        vcpu[own], row[own] = stimuli.vcpu, stimuli.row
        vcpu[~own], row[~own] = added.vcpu, added.row
        after = scan(replayed.automaton, letter, starts).after
    pairs = FirstPost.for_policy(replayed.policy, platform)
    walk = scan(pairs, letter, starts)
    ts_ns = places.events.ts_ns[row]
    ts_ns[own] = stimuli.ts_ns
    end_ns = np.full(len(letter), timeline.span_ns[1], np.int64)
    same = vcpu[1:] == vcpu[:-1]
    end_ns[:-1][same] = ts_ns[1:][same]
    first = np.ones(len(letter), np.bool_)
    first[1:] = ~same
    index = np.arange(len(letter))
    forgets = pairs.forgets[walk.before, letter] | first
    maybe = pairs.may_forget[walk.before, letter] | first
    return _Stream(
        letter=letter,
        vcpu=vcpu,
        row=row,
        begin_ns=ts_ns,
        end_ns=end_ns,
        place=np.flatnonzero(own),
        after=after,
        start=np.maximum.accumulate(np.where(forgets, index, 0)),
        start_most=np.maximum.accumulate(np.where(maybe, index, 0)),
        from_ns=arrivals_from(timeline),
    )


@dataclass(slots=True)
class _Pieces:
    """Pieces of the gaps behind letters: which letter's, from when, until when."""

    letter: Int64
    begin_ns: Int64
    end_ns: Int64

    def __len__(self) -> int:
        return len(self.letter)

    def __getitem__(self, which: slice | Array) -> _Pieces:
        return _Pieces(self.letter[which], self.begin_ns[which], self.end_ns[which])


def _cut(
    timeline: Timeline,
    stream: _Stream,
    automaton: Automaton,
    exposure: Exposure,
    places: Occupancy,
) -> _Pieces:
    """The gaps in which a post may notify the host, in pieces that are all alike."""
    opens = automaton.notify_f2.max[:, Letter.POST_HW] > 0
    opens &= automaton.absorbed.min[:, Letter.POST_HW] == 0
    window = window_of(timeline.windows, stream.vcpu, stream.row)
    some = opens[stream.after]
    inside = np.flatnonzero(window >= 0)
    some[inside] |= exposure.maybe[window[inside]]
    begin_ns = np.maximum(stream.begin_ns, stream.from_ns[stream.vcpu])
    gap = np.flatnonzero(some & (stream.end_ns > begin_ns))
    begin_ns, end_ns = begin_ns[gap], stream.end_ns[gap]
    i = timeline.intervals
    cuts = [_bounds_within(i.vcpu, i.start_ns, stream.vcpu[gap], begin_ns, end_ns)]
    away = np.flatnonzero(window[gap] >= 0)
    cpu = timeline.windows.put_cpu[window[gap[away]]]
    for stretches in (places.guest, places.maybe):
        for bound_ns in (stretches.start_ns, stretches.end_ns):
            which, at_ns = _bounds_within(
                stretches.cpu, bound_ns, cpu, begin_ns[away], end_ns[away]
            )
            cuts.append((away[which], at_ns))
    of = np.concatenate([np.arange(len(gap)), *(which for which, _ in cuts)])
    at_ns = np.concatenate([begin_ns, *(at for _, at in cuts)])
    order = np.lexsort((at_ns, of))
    of, at_ns = of[order], at_ns[order]
    until_ns = end_ns[of]
    same = of[1:] == of[:-1]
    until_ns[:-1][same] = at_ns[1:][same]
    some_length = until_ns > at_ns
    return _Pieces(gap[of[some_length]], at_ns[some_length], until_ns[some_length])


def _bounds_within(
    owner: Array, bound_ns: Array, of: Array, begin_ns: Array, end_ns: Array
) -> tuple[Int64, Int64]:
    """Each bound strictly within [begin, end) of its owner: which of those, and when.

    `owner` and `bound_ns` are by owner, then time.
    """
    none = np.empty(0, np.int64)
    if not len(owner) or not len(of):
        return none, none
    base = int(min(bound_ns.min(), begin_ns.min()))
    span = int(max(bound_ns.max(), end_ns.max())) - base + 2
    key = owner.astype(np.int64) * span + (bound_ns - base)
    shift = of.astype(np.int64) * span - base
    first = np.searchsorted(key, shift + begin_ns, side="right")
    last = np.searchsorted(key, shift + end_ns, side="left")
    count = np.maximum(last - first, 0)
    which = np.repeat(np.arange(len(of)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return which, bound_ns[np.repeat(first, count) + place]


@dataclass(slots=True)
class _Part:
    """Some openings: the letter behind which each lies, and what `Openings` has."""

    letter: Int64
    begin_ns: Int64
    end_ns: Int64
    known: Bools
    possible: npt.NDArray[np.uint16]
    settled: Bools
    cpu: npt.NDArray[np.int32]
    window: Int64


def _told(
    timeline: Timeline,
    stream: _Stream,
    replayed: Replayed,
    exposure: Exposure,
    places: Occupancy,
    pieces: _Pieces,
) -> _Part:
    """What the replay makes of one post in the middle of each piece."""
    n = len(pieces)
    ts_ns = (pieces.begin_ns + pieces.end_ns) // 2
    events = places.events
    row = np.searchsorted(events.ts_ns, ts_ns, side="right") - 1
    vcpu = stream.vcpu[pieces.letter]
    before = stream.after[pieces.letter]
    letter = np.full(n, Letter.POST_HW, np.uint8)
    posts = Stimuli(
        letter=letter,
        vcpu=vcpu,
        starts=np.searchsorted(vcpu, np.arange(len(timeline.vcpus))),
        ts_ns=ts_ns,
        row=row,
        cpu=events.cpu[row],
        window=np.full(n, -1, np.int32),
        # behind the last of POSTS: at a known instant, but none that was traced
        post=np.full(n, len(timeline.posts), np.int64),
        vector=np.full(n, -1, np.int16),
    )
    after = replayed.automaton.next_set[before, Letter.POST_HW]
    walked = replace(replayed, letters=letter, walk=Walk(before, after, after[:0]))
    found = find(timeline, posts, walked, places)
    possible, cpu, window = found.possible, found.cpu.copy(), found.window
    _not_certain(timeline, exposure, places.guest, found, vcpu, ts_ns, possible, cpu)
    return _Part(
        letter=pieces.letter,
        begin_ns=pieces.begin_ns,
        end_ns=pieces.end_ns,
        known=np.zeros(n, np.bool_),
        possible=possible,
        settled=found.certain,
        cpu=cpu,
        window=window,
    )


def _not_certain(
    timeline: Timeline,
    exposure: Exposure,
    guest: Stretches,
    found: Findings,
    vcpu: Array,
    ts_ns: Array,
    possible: npt.NDArray[np.uint16],
    cpu: Array,
) -> None:
    """Add what Exposure does not exclude: windows of unsure reason, hidden visits."""
    window = found.window
    at = np.flatnonzero(window >= 0)
    at = at[exposure.maybe[window[at]] & ~timeline.windows.certain[window[at]]]
    cpu[at] = timeline.windows.put_cpu[window[at]]
    taken = guest.at(cpu[at], ts_ns[at]) >= 0
    possible[at] |= np.where(taken, hit_bits(Hit.WRONG_VCPU), hit_bits(Hit.UNKNOWN))
    possible[at[~taken]] |= hit_bits(Hit.UNLOADED_HOST)
    possible[at] |= hit_bits(Hit.UNKNOWN)
    hidden = (exposure.invisible[vcpu] > 0) & (found.kind == Kind.HOST)
    hidden &= (possible & hit_bits(Hit.UNKNOWN)) != 0
    possible[hidden] |= hit_bits(Hit.UNLOADED_HOST, Hit.WRONG_VCPU)


def _known_posts(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    places: Occupancy,
    stream: _Stream,
) -> _Part:
    """Posts by hardware at known instants, as the replay has them."""
    found = find(timeline, stimuli, replayed, places)
    at = np.flatnonzero(replayed.letters[found.stimulus] == Letter.POST_HW)
    letter = stream.place[found.stimulus[at]]
    ts_ns = stream.begin_ns[letter]
    return _Part(
        letter=letter - 1,  # it finds what the letter before it left
        begin_ns=ts_ns,
        end_ns=ts_ns,
        known=np.ones(len(at), np.bool_),
        possible=found.possible[at],
        settled=found.certain[at],
        cpu=found.cpu[at],
        window=found.window[at],
    )


def _joined(stream: _Stream, parts: list[_Part], vcpus: int) -> Openings:
    def column(name: str) -> Array:
        result: Array = np.concatenate([getattr(part, name) for part in parts])
        return result

    possible = column("possible")
    kept = np.flatnonzero((possible & hit_bits(*SPURIOUS, Hit.GUEST_EXIT)) != 0)
    letter, known = column("letter")[kept], column("known")[kept]
    begin_ns, end_ns = column("begin_ns")[kept], column("end_ns")[kept]
    vcpu = stream.vcpu[letter]
    times = []
    for start in (stream.start, stream.start_most):
        epoch = start[letter]
        # (a known post may even come before the others)
        from_ns = np.maximum(stream.begin_ns[epoch], stream.from_ns[vcpu])
        from_ns = np.minimum(from_ns, begin_ns)
        until_s = np.where(known, np.inf, (end_ns - from_ns) / 1e9)
        times.append((epoch, (begin_ns - from_ns) / 1e9, until_s))
    return Openings(
        vcpu=vcpu,
        cpu=column("cpu")[kept],
        possible=possible[kept],
        settled=column("settled")[kept],
        window=column("window")[kept],
        epoch=times[0][0],
        after_s=times[0][1],
        until_s=times[0][2],
        epoch_most=times[1][0],
        after_most_s=times[1][1],
        until_most_s=times[1][2],
        vcpus=vcpus,
    )
