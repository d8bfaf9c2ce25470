"""What became of one post under one policy, and why that is certain or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from piscope.explain.account import RowLine, Verdict
from piscope.explain.steps import Walked
from piscope.explain.words import ROW_WORDS, hit_text
from piscope.model.letters import MAYBE, Letter
from piscope.outcomes import Findings, Hit, Row
from piscope.pipeline import Analysis
from piscope.tables import Kind

__all__ = ("MOST_ROWS", "guest_stretches", "verdict_of", "victims_of")

_MOST_BACK = 4096
MOST_ROWS = 4
"""Rows of the state table that people are told one by one."""


def verdict_of(
    analysis: Analysis, policy: str, index: int, ndst: Sequence[int]
) -> Verdict:
    """The verdict on one finding, by its index within the policy's findings.

    `ndst` are the pCPUs that NDST may name before it.
    """
    result = analysis.results[policy]
    f = result.findings
    hits = [hit for hit in Hit if int(f.possible[index]) >> hit & 1]
    rows = [row for row in Row if int(f.row[index]) >> row & 1]
    cpu, victim = int(f.cpu[index]), int(f.victim[index])
    if cpu < 0 and len(ndst) == 1 and set(hits) & set(_SENT):
        cpu = ndst[0]  # on its way in or out, where no pCPU is told
    takers = victims_of(analysis, policy, index) if Hit.WRONG_VCPU in hits else []
    label = analysis.timeline.vcpus.rows[victim].label if victim >= 0 else None
    certain = bool(f.certain[index])
    coalesced = int(f.coalesced[index])
    doubts = [] if certain else list(_doubts(analysis, policy, index, hits, rows))
    return Verdict(
        policy=policy,
        title=result.title,
        hit=hits[0].label if len(hits) == 1 else None,
        possible=[hit.label for hit in hits],
        text=hit_text(hits, cpu if cpu >= 0 else None, " or ".join(takers)),
        certain=certain,
        doubts=doubts,
        cpu=cpu if cpu >= 0 else None,
        victim=label,
        coalesced=None if coalesced < 0 else bool(coalesced),
        rows=[RowLine(row.label, ROW_WORDS[row]) for row in rows],
    )


_SENT = (Hit.HOST, Hit.UNLOADED_HOST, Hit.WRONG_VCPU, Hit.LATCHED, Hit.WAKEUP)


def victims_of(analysis: Analysis, policy: str, index: int) -> list[str]:
    """Labels of the vCPUs in whose guest mode it may have been taken."""
    guest = analysis.occupancy.guest
    rows = analysis.timeline.vcpus.rows
    which = guest_stretches(analysis, policy, index)
    return [rows[v].label for v in dict.fromkeys(guest.vcpu[which].tolist())]


def guest_stretches(
    analysis: Analysis, policy: str, index: int
) -> npt.NDArray[np.int64]:
    """int64[m]: the stretches of Occupancy.guest that may have taken it, by time."""
    f, stimuli = analysis.results[policy].findings, analysis.stimuli
    guest, windows = analysis.occupancy.guest, analysis.timeline.windows
    at = int(f.stimulus[index])
    start_ns = end_ns = int(stimuli.ts_ns[at])
    if stimuli.post[at] < 0 and f.window[index] >= 0:
        end_ns = int(windows.load_ns[f.window[index]])
    return np.flatnonzero(
        (guest.cpu == f.cpu[index])
        & (guest.start_ns <= end_ns)
        & (guest.end_ns > start_ns)
        & (guest.vcpu != stimuli.vcpu[at])
    )


def _doubts(
    analysis: Analysis, policy: str, index: int, hits: list[Hit], rows: list[Row]
) -> Iterator[str]:
    f = analysis.results[policy].findings
    stimuli, timeline = analysis.stimuli, analysis.timeline
    at = int(f.stimulus[index])
    window, post = int(f.window[index]), int(stimuli.post[at])
    found = False
    for doubt in (
        *_of_instant(f, index, hits, hidden=post < 0),
        *_of_state(Walked.of(analysis, policy, at), at),
    ):
        found = True
        yield doubt
    if window >= 0 and not timeline.windows.certain[window]:
        found = True
        yield "The put's place or its reason is not certain."
    if post >= 0 and not timeline.posts.certain[post]:
        found = True
        yield "Which vCPU it was for is learned from other posts of the same thread."
    if Hit.UNKNOWN in hits or f.kind[index] == Kind.UNKNOWN:
        found = True
        yield "What the vCPU did at that instant is not certain."
    if Hit.LATCHED in hits and Hit.HOST in hits:
        found = True
        yield (
            "It may be on a fast path, with IRQs off until the VM-entry: no event tells"
            " when IRQs were on."
        )
    if len(rows) > 1:
        found = True
        which = f"{len(rows)} rows are possible"
        if len(rows) <= MOST_ROWS:
            which = " or ".join(row.label for row in rows)
        yield f"The events around it leave open which row of the state table: {which}."
    if not found:
        yield "The order of this post and another event next to it is not known."


def _of_instant(
    f: Findings, index: int, hits: list[Hit], *, hidden: bool
) -> Iterator[str]:
    if not hidden:
        return
    yield (
        "No event shows the post: probes at the put and the load read a descriptor"
        " that has changed in between."
    )
    if Hit.WRONG_VCPU in hits and Hit.UNLOADED_HOST in hits:
        share = 100 * float(f.wrong_share[index])
        yield (
            f"pCPU {int(f.cpu[index])} was in another vCPU's guest mode for"
            f" {share:.1f}% of that time, which would take it."
        )


def _of_state(walked: Walked, at: int) -> Iterator[str]:
    """Why the descriptor's state before the post is not one, where that matters."""
    automaton = walked.replayed.automaton
    before = int(walked.replayed.walk.before[at])
    if automaton.certain[before, walked.letter(at)]:
        return
    count = len(automaton.sets[before])
    yield (
        f"The descriptor may be in any of {count} states before it, because"
        f" {_since(walked, at)}."
    )


def _since(walked: Walked, at: int) -> str:
    """The last letter that left more states than it met, in words."""
    sets, walk = walked.replayed.automaton.sets, walked.replayed.walk
    first = max(walked.first, at - _MOST_BACK)
    for i in range(at - 1, first - 1, -1):
        if len(sets[int(walk.after[i])]) <= len(sets[int(walk.before[i])]):
            continue
        letter = walked.letter(i)
        if letter is Letter.FORGET:
            return "events were lost before it"
        if letter in MAYBE:
            return f"a step before it may or may not have been ({letter.name})"
        return f"a step before it has several answers ({letter.name})"
    if first == walked.first:
        return "the trace begins in the middle of its life"
    return "something long before it left it open"
