"""The whole of an analysis as one short function: the arrow of the architecture.

sources -> events -> timeline -> (model) -> replay -> report
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.events.catalog import analysis_fields
from piscope.events.normalize import collect
from piscope.model.policy import (
    DEFAULT_PLATFORM,
    POLICIES,
    Platform,
    Policy,
    policy_of_release,
)
from piscope.observed import ObservedIrqs
from piscope.outcomes import PolicyResult
from piscope.parts import Own
from piscope.posted import Posted, parse_posted
from piscope.replay.exposure import expose
from piscope.replay.fastpath import DEFAULT_FASTPATH
from piscope.replay.findings import Replayed, find, replay
from piscope.replay.met import Met, what_posts_met
from piscope.replay.pcpus import Occupancy, occupancy
from piscope.replay.posted import resolve_posted
from piscope.replay.recognize import (
    Recognized,
    learned_of,
    posting_by_hardware,
    recognize_policy,
)
from piscope.replay.stimuli import Stimuli, build_stimuli
from piscope.sources.raw import Source, Wanted
from piscope.tables import Events, Timeline
from piscope.timeline.build import build_timeline
from piscope.timeline.observed import find_observed
from piscope.timeline.user_posts import UserPosts, with_user_posts

__all__ = (
    "DEFAULT_POLICIES",
    "Analysis",
    "Part",
    "Policies",
    "analyze",
    "analyze_events",
    "analyze_timeline",
)

DEFAULT_POLICIES = ("preempt-only", "suppress-on-put")
"""The two that the patch 6737557442e5 (v6.17) lies between."""

Policies = tuple[str, ...] | Callable[[str | None], tuple[str, ...]]
"""Those to replay, or what names them for the policy of the captured kernel, which is
None where nothing tells it."""


@dataclass(slots=True)
class Analysis:
    """All tables of one analysis, from events to findings.

    posted  which of KVM's posts were replayed as hardware's, without "auto"
    posting_by_hardware  whether the captured host posted by hardware, None: not told
    observed  notification interrupts of the captured kernel that left an event
    captured  which policy the captured kernel has, and on what evidence
    results, walks  by policy name, in the order asked for
    """

    events: Events
    timeline: Timeline
    stimuli: Stimuli
    occupancy: Occupancy
    posted: Posted
    posting_by_hardware: bool | None
    observed: ObservedIrqs
    captured: Recognized
    results: dict[str, PolicyResult]
    walks: dict[str, Replayed]


@dataclass(slots=True)
class Part:
    """A part of an analysis: tables of some stretch of the trace, and what is its own.

    What is of the whole trace is so in every part: `timeline.span_ns`, `vcpus`,
    `probes`, `userspace_visible`, `unplaced_losses`, `lost_windows`; `events.info`,
    `names`, `losses`, `counts`, `markers`; `posted`, `posting_by_hardware`, `captured`;
    `Exposure.lost` and `Residual.lost`. Of a part's own rows only are
    `Exposure.invisible`, `Residual`'s rows, `Costs` and `contradictions`; they add up.
    All other tables have the context's rows, too.

    rows  int64[events]  each event's row in EVENTS of the whole trace
    """

    analysis: Analysis
    own: Own
    rows: npt.NDArray[np.int64]

    @staticmethod
    def of_whole(analysis: Analysis) -> Part:
        """An analysis that was made at once, as the only part."""
        n = len(analysis.events)
        return Part(analysis, Own(0, n), np.arange(n))


def analyze(
    source: Source,
    *,
    policies: Policies = DEFAULT_POLICIES,
    posted: Posted = "auto",
    fastpath: frozenset[int] = DEFAULT_FASTPATH,
    platform: Platform = DEFAULT_PLATFORM,
    given: UserPosts | None = None,
    ignore: tuple[str, ...] = (),
    cpus: frozenset[int] | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
    tsc_khz: int | None = None,
    keep_events: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Analyze one open trace.

    `fastpath` are the exit reasons that the policy more-fastpath shelters, `platform`
    is what the replayed host and VM offer, `given` are posts that the user knows of
    besides those that the trace shows, `ignore` are patterns of events to treat
    as absent, `cpus`, `start_ns` and `end_ns` narrow what is read; `tsc_khz` is the
    frequency of a raw x86-tsc clock; without `keep_events` the analysis is good for a
    summary, but not for the EVENTS table (tables.Events.keep_only); `progress` is told
    the name of each stage as it begins.

    Raises UnanswerableError for a trace without vCPUs of an Intel host.
    """
    parse_posted(posted)  # before the work is done
    progress("reading")
    wanted = Wanted(
        analysis_fields(),
        ignore=ignore,
        cpus=cpus,
        start_ns=start_ns,
        end_ns=end_ns,
    )
    return analyze_events(
        collect(source, wanted, tsc_khz),
        policies=policies,
        posted=posted,
        fastpath=fastpath,
        platform=platform,
        given=given,
        narrowed=start_ns is not None or end_ns is not None,
        keep_events=keep_events,
        progress=progress,
    )


def analyze_events(
    events: Events,
    *,
    policies: Policies,
    posted: Posted,
    fastpath: frozenset[int],
    platform: Platform,
    given: UserPosts | None,
    narrowed: bool,
    keep_events: bool,
    progress: Callable[[str], None],
) -> Analysis:
    """Analyze what was read of a trace; the rest as for `analyze`.

    `narrowed`: it is not all of the trace.
    """
    progress("timeline")
    timeline = build_timeline(events)
    if given is not None:
        timeline = with_user_posts(timeline, events, given, narrowed=narrowed)
    return analyze_timeline(
        events,
        timeline,
        policies=policies,
        posted=resolve_posted(posted, timeline.posts),
        fastpath=fastpath,
        platform=platform,
        keep_events=keep_events,
        progress=progress,
    )


def analyze_timeline(
    events: Events,
    timeline: Timeline,
    *,
    policies: Policies,
    posted: Posted,
    fastpath: frozenset[int],
    platform: Platform,
    keep_events: bool = True,
    own: Own | None = None,
    earlier: Callable[[Timeline, Occupancy], Occupancy] = lambda _, places: places,
    progress: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Replay a timeline; the rest as for `analyze`.

    `posted` is without "auto". Of a part of a trace `own` are its own rows, and
    `earlier` adds what its pCPUs did before.
    """
    own = Own(0, len(events)) if own is None else own
    learned = learned_of(timeline.windows, events.scope)
    captured = recognize_policy(learned, _by_release(events.info.kernel_release))
    names = policies(captured.policy) if callable(policies) else policies
    observed = find_observed(events, timeline)
    if not keep_events:
        events.keep_only(*_READ_LATER)
    places = occupancy(events, timeline.vcpus, timeline.intervals, timeline.acts)
    places = earlier(timeline, places)
    stimuli = build_stimuli(timeline, events, posted)
    met = what_posts_met(timeline, stimuli, places)

    def replayed(name: str) -> tuple[Replayed, PolicyResult]:
        progress(f"replay {name}")
        policy = POLICIES[name]
        walked = replay(timeline, stimuli, policy, platform, fastpath)
        what_if = posted != "none"
        found = _result(policy, timeline, stimuli, walked, places, met, what_if, own)
        return walked, found

    # numpy does most of it without the interpreter's lock
    with ThreadPoolExecutor(2) as both:
        found = dict(zip(names, both.map(replayed, names), strict=True))
    return Analysis(
        events=events,
        timeline=timeline,
        stimuli=stimuli,
        occupancy=places,
        posted=posted,
        posting_by_hardware=posting_by_hardware(learned),
        observed=observed,
        captured=captured,
        results={name: result for name, (_, result) in found.items()},
        walks={name: walked for name, (walked, _) in found.items()},
    )


# Events whose payloads the replay and a summary read.
_READ_LATER = ("kvm_entry", "kvm_exit", "sched_switch", "irq_handler_entry")


def _by_release(release: str | None) -> str | None:
    return None if release is None else policy_of_release(release)


def _result(
    policy: Policy,
    timeline: Timeline,
    stimuli: Stimuli,
    replayed: Replayed,
    places: Occupancy,
    met: Met,
    what_if: bool,
    own: Own,
) -> PolicyResult:
    findings = find(timeline, stimuli, replayed, places, met)
    exposure, residual, costs = expose(
        timeline, stimuli, replayed, findings, places, what_if, met.windows, own
    )
    surprise = replayed.automaton.surprise[replayed.walk.before, replayed.letters]
    surprise &= own.rows(stimuli.row)
    return PolicyResult(
        policy=policy.name,
        title=policy.title,
        findings=findings,
        exposure=exposure,
        residual=residual,
        costs=costs,
        contradictions=int(surprise.sum()),
    )
