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
from piscope.replay.arrivals import Arrivals
from piscope.replay.automaton import Automaton
from piscope.replay.epochs import Stream, epochs_of
from piscope.replay.findings import Replayed, find
from piscope.replay.hidden_posts import window_of
from piscope.replay.openings import SPURIOUS, Bools, Int64, Openings
from piscope.replay.pcpus import Occupancy, Stretches
from piscope.replay.scan import Walk
from piscope.replay.stimuli import Stimuli
from piscope.sources.raw import Array
from piscope.tables import Kind, Timeline

__all__ = ("open_pieces",)

# Pieces that the replay is asked about at a time: bounds the memory that it takes.
_CHUNK = 1 << 20


def open_pieces(
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    exposure: Exposure,
    places: Occupancy,
    platform: Platform = DEFAULT_PLATFORM,
    arrivals: Arrivals | None = None,
) -> Openings:
    """The openings of one policy; `stimuli` and its replay are without hidden posts.

    `arrivals` says when posts may come at all; None: those of devices.

    Windows are open as `exposure` has them: one whose reason is not certain may be.
    """
    stream = epochs_of(timeline, stimuli, replayed, platform, places)
    if arrivals is None:
        arrivals = Arrivals.of_devices(timeline, places.events)
    asked = _cut(timeline, stream, replayed.automaton, exposure, places, arrivals)
    parts = [
        _told(timeline, stream, replayed, exposure, places, asked[at : at + _CHUNK])
        for at in range(0, len(asked), _CHUNK)
    ]
    parts.append(_known_posts(timeline, stimuli, replayed, places, stream))
    return _joined(stream, parts, arrivals, len(timeline.vcpus))


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
    stream: Stream,
    automaton: Automaton,
    exposure: Exposure,
    places: Occupancy,
    arrivals: Arrivals,
) -> _Pieces:
    """The gaps in which a post may notify the host, in pieces that are all alike."""
    opens = automaton.notify_f2.max[:, Letter.POST_HW] > 0
    opens &= automaton.absorbed.min[:, Letter.POST_HW] == 0
    window = window_of(timeline.windows, stream.vcpu, stream.row)
    some = opens[stream.after]
    inside = np.flatnonzero(window >= 0)
    some[inside] |= exposure.maybe[window[inside]]
    begin_ns = np.maximum(stream.begin_ns, arrivals.from_ns[stream.vcpu])
    all_end_ns = np.minimum(stream.end_ns, arrivals.until_ns[stream.vcpu])
    blind_ns = _blind_ns(timeline, places)
    begun = np.searchsorted(blind_ns[:, 0], all_end_ns)
    some |= begun > np.searchsorted(blind_ns[:, 1], begin_ns, side="right")
    gap = np.flatnonzero(some & (all_end_ns > begin_ns))
    begin_ns, end_ns = begin_ns[gap], all_end_ns[gap]
    i = timeline.intervals
    cuts = [_bounds_within(i.vcpu, i.start_ns, stream.vcpu[gap], begin_ns, end_ns)]
    for bound_ns in blind_ns.T:
        all_alike = np.zeros(len(bound_ns), np.int64), np.zeros(len(gap), np.int64)
        cuts.append(
            _bounds_within(all_alike[0], bound_ns, all_alike[1], begin_ns, end_ns)
        )
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


def _blind_ns(timeline: Timeline, places: Occupancy) -> Int64:
    """int64[m, 2]: from when to when events are missing."""
    ts_ns = places.events.ts_ns
    first, last = np.minimum(timeline.blind, len(ts_ns) - 1).T
    return np.stack([ts_ns[first], ts_ns[last]], axis=1)


def _is_blind(timeline: Timeline, row: Array) -> Bools:
    begun = np.searchsorted(timeline.blind[:, 0], row, side="right")
    over = np.searchsorted(timeline.blind[:, 1], row, side="right")
    result: Bools = begun > over
    return result


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
    """Some openings: the letter behind which each lies, and what `Openings` has.

    known  a post, at `begin_ns`; alone: it does not depend on the epoch's others
    """

    letter: Int64
    begin_ns: Int64
    end_ns: Int64
    known: Bools
    alone: Bools
    possible: npt.NDArray[np.uint16]
    settled: Bools
    unknown: Bools
    cpu: npt.NDArray[np.int32]
    window: Int64


def _told(
    timeline: Timeline,
    stream: Stream,
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
    before = stream.after[pieces.letter].copy()
    blind = _is_blind(timeline, row)
    before[blind] = replayed.automaton.unknown
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
    # switched out, but not yet put: taken on the pCPU that it leaves (row 11)
    leaves = (cpu < 0) & (window < 0) & (found.kind != Kind.UNKNOWN)
    cpu[leaves] = events.cpu[stream.row[pieces.letter[leaves]]]
    _not_certain(timeline, exposure, places.guest, found, vcpu, ts_ns, possible, cpu)
    return _Part(
        letter=pieces.letter,
        begin_ns=pieces.begin_ns,
        end_ns=pieces.end_ns,
        known=np.zeros(n, np.bool_),
        alone=np.zeros(n, np.bool_),
        possible=possible,
        settled=found.certain,
        unknown=blind | ((found.kind == Kind.UNKNOWN) & (found.window < 0)),
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
    stream: Stream,
) -> _Part:
    """Posts at known instants, as the replay has them.

    KVM's own may notify too, where its IPI raced with a VM-exit; whether ON was set
    makes no difference to what the replay leaves open there.
    """
    found = find(timeline, stimuli, replayed, places)
    place = stream.place[found.stimulus]
    by_hardware = replayed.letters[found.stimulus] == Letter.POST_HW
    # it finds what the letter before it left, in the same epoch
    before = np.maximum(place - 1, 0)
    same = by_hardware & (stream.vcpu[before] == stream.vcpu[place])
    ts_ns = stream.begin_ns[place]
    return _Part(
        letter=np.where(same, before, place),
        begin_ns=ts_ns,
        end_ns=ts_ns,
        known=np.ones(len(place), np.bool_),
        alone=~by_hardware,
        possible=found.possible,
        settled=found.certain,
        unknown=np.zeros(len(place), np.bool_),
        cpu=found.cpu,
        window=found.window,
    )


def _joined(
    stream: Stream, parts: list[_Part], arrivals: Arrivals, vcpus: int
) -> Openings:
    def column(name: str) -> Array:
        result: Array = np.concatenate([getattr(part, name) for part in parts])
        return result

    possible = column("possible")
    kept = np.flatnonzero((possible & hit_bits(*SPURIOUS, Hit.GUEST_EXIT)) != 0)
    letter, known, alone = (column(name)[kept] for name in ("letter", "known", "alone"))
    vcpu = stream.vcpu[letter]
    begin_ns, end_ns = (
        arrivals.clock_ns(vcpu, column(name)[kept]) for name in ("begin_ns", "end_ns")
    )
    times = []
    for start in (stream.start, stream.start_most):
        epoch = start[letter]
        since_ns = arrivals.clock_ns(vcpu, stream.begin_ns[epoch])
        until_s = np.where(known, np.inf, (end_ns - since_ns) / 1e9)
        after_s = np.where(alone, 0.0, (begin_ns - since_ns) / 1e9)
        # an epoch of its own: numbers behind those of the letters
        epoch = np.where(alone, len(stream.letter) + np.arange(len(kept)), epoch)
        times.append((epoch, after_s, until_s))
    return Openings(
        vcpu=vcpu,
        cpu=column("cpu")[kept],
        ts_ns=column("begin_ns")[kept],
        possible=possible[kept],
        settled=column("settled")[kept],
        unknown=column("unknown")[kept],
        window=column("window")[kept],
        epoch=times[0][0],
        after_s=times[0][1],
        until_s=times[0][2],
        epoch_most=times[1][0],
        after_most_s=times[1][1],
        until_most_s=times[1][2],
        vcpus=vcpus,
    )
