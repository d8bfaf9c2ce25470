"""A long trace through the pipeline in slices, each with what it needs of the others.

    first pass   vCPUs, pCPUs, instants, losses          slices.first_pass
    second       the rows around each slice              slices.contexts
    third        what posts and windows say together     whole.Learned
    fourth       each slice through pipeline.analyze_timeline, as a Part

Memory is that of a slice, and of the contexts: a few rows for each vCPU and pCPU at
each cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope.events.catalog import analysis_fields
from piscope.model.policy import DEFAULT_PLATFORM, Platform
from piscope.outcomes import Hit
from piscope.pipeline import (
    DEFAULT_POLICIES,
    Analysis,
    Part,
    Policies,
    analyze_events,
    analyze_timeline,
)
from piscope.posted import Posted, parse_posted
from piscope.replay.fastpath import DEFAULT_FASTPATH
from piscope.replay.findings import ONE_VECTOR
from piscope.replay.pcpus import Occupancy
from piscope.replay.posted import remapped, resolve_auto
from piscope.replay.recognize import learn_windows
from piscope.slices.posts import KeptPosts
from piscope.slices.rows import Rows
from piscope.slices.trace import SLICE_ROWS, WHOLE_ROWS, SlicedTrace
from piscope.sources.raw import RawChunk, Source, Wanted
from piscope.tables import Events, Posts, Timeline
from piscope.timeline.build import build_timeline, refuse
from piscope.timeline.markers import marked_snapshots
from piscope.timeline.user_posts import UserPosts
from piscope.timeline.vcpus import find_vcpus

__all__ = ("SLICE_ROWS", "WHOLE_ROWS", "Parts", "parts_of")


def parts_of(
    source: Source,
    *,
    policies: Policies = DEFAULT_POLICIES,
    posted: Posted = "auto",
    fastpath: frozenset[int] = DEFAULT_FASTPATH,
    platform: Platform = DEFAULT_PLATFORM,
    given: UserPosts | None = None,
    ignore: tuple[str, ...] = (),
    start_ns: int | None = None,
    end_ns: int | None = None,
    tsc_khz: int | None = None,
    slice_rows: int = SLICE_ROWS,
    whole_rows: int | None = 0,
    keep_events: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Parts:
    """Analyze one open trace in parts.

    A part's own rows are `slice_rows` at the most. A trace of up to `whole_rows`
    events (None: any) is one part, and read once. So is a longer one for which posts
    are `given`, or that holds counters of its own: they are of the whole of it. The
    other arguments are those of `pipeline.analyze`.

    Raises UsageError for words that `posted` does not know. Going through the parts
    raises UnanswerableError as `pipeline.analyze` does.
    """
    parse_posted(posted)
    wanted = Wanted(analysis_fields(), ignore=ignore, start_ns=start_ns, end_ns=end_ns)
    asked: dict[str, Any] = {
        "policies": policies,
        "fastpath": fastpath,
        "platform": platform,
        "keep_events": keep_events,
    }
    narrowed = start_ns is not None or end_ns is not None
    return Parts(
        _Trace(source, wanted, slice_rows, tsc_khz),
        partial(
            analyze_events,
            **asked,
            posted=posted,
            given=given,
            narrowed=narrowed,
            progress=progress,
        ),
        partial(analyze_timeline, **asked),
        posted,
        whole_rows if given is None else None,
        progress,
    )


class Parts:
    """The parts of one analysis, in order; they can be gone through more than once.

    Nothing is read before the first of them is asked for. Each is made anew, and only
    what the caller holds on to stays in memory; that of a trace in one part stays.
    """

    def __init__(
        self,
        trace: _Trace,
        at_once: Callable[[Events], Analysis],
        of_slice: Callable[..., Analysis],
        posted: Posted,
        whole_rows: int | None,
        progress: Callable[[str], None],
    ) -> None:
        """See `parts_of`."""
        self._trace = trace
        self._at_once = at_once
        self._of_slice = of_slice
        self._posted = posted
        self._most_rows = sys.maxsize if whole_rows is None else whole_rows
        self._progress = progress
        self._whole: Part | None = None
        self._known = False

    def __iter__(self) -> Iterator[Part]:
        if not self._known:
            self._find()
            self._known = True
        if self._whole is not None:
            yield self._whole
            return
        self._progress("replay")
        carried = _Carried()
        for events in self._trace.slices():
            yield self._part(events, carried)
            del events

    def _find(self) -> None:
        """Make the only part, or learn what the slices need of the whole."""
        trace = self._trace
        self._progress("reading")
        events = trace.hold(self._most_rows)
        if events is None:
            telling = trace.telling()
            refuse(telling)
            if len(marked_snapshots(telling)) > 1:
                events = trace.hold(sys.maxsize)
        if events is not None:
            self._whole = Part.of_whole(self._at_once(events))
            return
        vcpus = find_vcpus(telling)
        if not len(vcpus):
            build_timeline(telling)  # says what is missing
        self._progress("looking around")
        trace.look_around(vcpus, telling.losses)
        self._progress("learning")
        trace.learn()
        self._posted = resolve_auto(self._posted, trace.learned.remapped)

    def _part(self, events: Events, carried: _Carried) -> Part:
        scope = events.scope
        assert scope is not None
        timeline = build_timeline(events)
        timeline.posts = self._trace.posts.within(timeline.posts, scope)
        analysis = self._of_slice(
            events,
            timeline,
            posted=self._posted,
            own=scope.own,
            earlier=carried.earlier,
        )
        carried.go_on(analysis)
        return Part(analysis, scope.own, scope.rows)


@dataclass(slots=True)
class _Trace(SlicedTrace):
    """A trace that is also gone through for what its slices say only together."""

    posts: KeptPosts = field(default_factory=KeptPosts)

    def learn(self) -> None:
        """Go through all slices once for what they say only together."""
        assert self.contexts is not None
        for i, events in enumerate(self.slices(learning=True)):
            scope = events.scope
            assert scope is not None
            timeline = build_timeline(events)
            w, posts = timeline.windows, timeline.posts
            put_row = scope.rows[w.put_row]
            learn_windows(self.learned, w, scope.own.windows(w), put_row)
            mine = scope.own.posts(posts)
            self.learned.remapped |= bool((remapped(posts) & mine).any())
            self.posts.end(posts, scope)
            self._add_posts(i, events, timeline, np.flatnonzero(mine), posts)

    def _add_posts(
        self,
        i: int,
        events: Events,
        timeline: Timeline,
        mine: npt.NDArray[np.int64],
        posts: Posts,
    ) -> None:
        assert self.contexts is not None
        scope = events.scope
        assert scope is not None
        told = mine[posts.vcpu[mine] >= 0]
        vcpu = [posts.vcpu[told].astype(np.int64)]
        which = [told]
        unknown = mine[posts.vcpu[mine] < 0]
        for vcpu_id in np.unique(posts.vcpu_id[unknown]).tolist():
            same = unknown[posts.vcpu_id[unknown] == vcpu_id]
            for candidate in timeline.vcpus.candidates(vcpu_id):
                vcpu.append(np.full(len(same), candidate))
                which.append(same)
        of, index = np.concatenate(vcpu), np.concatenate(which)
        table = Rows(scope.rows, _chunk_of(events))
        at = np.stack([posts.at[index], posts.row[index], posts.cause[index]], axis=1)
        needed = self.contexts.add_posts(i, table, of, at)
        self.posts.keep(posts, np.unique(index[needed]), scope)


def _chunk_of(events: Events) -> RawChunk:
    return RawChunk(
        ts_ns=events.ts_ns,
        cpu=events.cpu,
        seq=np.empty(0, np.int64),
        tid=events.tid,
        flags=events.flags,
        event=events.event,
        payload=events.payload,
    )


class _Carried:
    """What a slice leaves to the next ones, because windows may be long.

    guest_ns    of those that are open, how long their pCPU was in guest mode
    reached_ns  as in Occupancy
    """

    def __init__(self) -> None:
        self._guest_ns: dict[tuple[int, int], int] = {}
        self._reached_ns: dict[tuple[str, Hit], dict[int, int]] = {}

    def earlier(self, timeline: Timeline, places: Occupancy) -> Occupancy:
        """The same with what came before this slice."""
        events, w = places.events, timeline.windows
        scope = events.scope
        assert scope is not None
        if scope.own.first:
            return places
        begin_ns = int(events.ts_ns[scope.own.begin])
        earlier_ns = np.zeros(len(w), np.int64)
        put_row = scope.rows[w.put_row]
        for at in np.flatnonzero(w.put_row < scope.own.begin).tolist():
            key = (int(w.vcpu[at]), int(put_row[at]))
            earlier_ns[at] = self._guest_ns.get(key, 0)
        return replace(
            places,
            begin_ns=begin_ns,
            earlier_ns=earlier_ns,
            reached_ns=self._reached_ns,
        )

    def go_on(self, analysis: Analysis) -> None:
        """Keep what the next slices need."""
        places, w = analysis.occupancy, analysis.timeline.windows
        events = analysis.events
        scope = events.scope
        assert scope is not None
        if scope.own.last:
            return
        end_ns = int(events.ts_ns[scope.own.end])
        at = np.flatnonzero((w.put_row < scope.own.end) & (w.end_row >= scope.own.end))
        cut = replace(w, load_ns=np.minimum(w.load_ns, end_ns))
        guest_ns = places.guest_in_windows(cut, at).tolist()
        keys = zip(w.vcpu[at].tolist(), scope.rows[w.put_row[at]].tolist(), strict=True)
        self._guest_ns = dict(zip(keys, guest_ns, strict=True))
        stimuli, posts = analysis.stimuli, analysis.timeline.posts
        own = scope.own.stimuli(stimuli, posts, w)
        for name, result in analysis.results.items():
            f = result.findings
            for hits in ONE_VECTOR:
                sent = np.flatnonzero(own[f.stimulus] & f.maybe(*hits) & (f.cpu >= 0))
                until_ns = stimuli.ts_ns[f.stimulus[sent]].copy()
                hidden = stimuli.post[f.stimulus[sent]] < 0
                until_ns[hidden] = w.load_ns[f.window[sent[hidden]]]
                reached_ns = self._reached_ns.setdefault((name, hits[0]), {})
                for cpu in np.unique(f.cpu[sent]).tolist():
                    latest_ns = int(until_ns[f.cpu[sent] == cpu].max())
                    reached_ns[cpu] = max(reached_ns.get(cpu, latest_ns), latest_ns)
