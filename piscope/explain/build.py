"""From an analysis and one finding of it to the account, but for its events."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from piscope import __version__
from piscope.explain.account import SCHEMA_VERSION, Account, Notification, Step
from piscope.explain.deciding import deciding_lines
from piscope.explain.near_events import Near, near_of
from piscope.explain.pick import Picked
from piscope.explain.steps import steps_around
from piscope.explain.verdicts import guest_stretches, verdict_of
from piscope.model.letters import Letter
from piscope.origins import EVIDENCE, INFERRED, ORIGINS, Evidence, Given, Origin
from piscope.pipeline import Analysis
from piscope.posted import posted_text
from piscope.report.render_words import REASON_WORDS, duration_text
from piscope.tables import Kind, PutReason

__all__ = ("account_of", "near_account")

_HOST_WORDS = {
    Kind.GUEST: "in guest mode",
    Kind.HOST_IRQS_OFF: "in KVM, IRQs off",
    Kind.HOST: "in KVM",
    Kind.POLL: "halt-polling",
    Kind.USERSPACE: "on its way to or from userspace",
    Kind.PREEMPTED: "being switched in or out",
    Kind.BLOCKED: "about to block, or waking",
    Kind.ASLEEP: "about to sleep, or waking",
}


def account_of(analysis: Analysis, picked: Picked) -> Account:
    """The story of one finding; `events` are still to be filled in.

    Numbers of stimuli and findings are those of this analysis (`explain.numbers`).
    """
    info = analysis.events.info
    first = next(iter(analysis.results.values())).findings
    stimulus = int(first.stimulus[picked.index])
    steps = steps_around(analysis, stimulus)
    met = next(step.policies for step in steps if step.is_post)
    verdicts = [
        verdict_of(analysis, policy, picked.index, met[policy].before.ndst)
        for policy in analysis.results
    ]
    deciding, rules = deciding_lines(analysis, picked.index, steps)
    return Account(
        schema_version=SCHEMA_VERSION,
        piscope_version=__version__,
        trace=info.path,
        format=info.format,
        kernel_release=info.kernel_release,
        captured_policy=analysis.captured.policy,
        clock_ns=info.ts_unit == "ns",
        found_by=picked.found_by,
        question=_question(analysis),
        notification=_notification(analysis, picked.index, stimulus),
        verdicts=verdicts,
        events=[],
        steps=steps,
        deciding=deciding,
        rules=rules,
        notes=_notes(analysis, steps),
    )


def _question(analysis: Analysis) -> str:
    return f"--posted {analysis.posted}: {posted_text(analysis.posted)}"


def _notification(analysis: Analysis, index: int, stimulus: int) -> Notification:
    stimuli, timeline = analysis.stimuli, analysis.timeline
    events, posts, windows = analysis.events, timeline.posts, timeline.windows
    f = next(iter(analysis.results.values())).findings
    vcpu = timeline.vcpus.rows[int(stimuli.vcpu[stimulus])]
    post, ts_ns = int(stimuli.post[stimulus]), int(stimuli.ts_ns[stimulus])
    by_hardware = int(stimuli.letter[stimulus]) == Letter.POST_HW
    vector = int(stimuli.vector[stimulus])
    evidence, poster, until_ns = "probes", "", None
    origin, origin_text = None, ""
    if post >= 0:
        at = int(posts.at[post])
        origin, origin_text = _origin(analysis, post)
        evidence = events.names[int(events.event[at])][1]
        tid = int(posts.tid[post])
        comm = "idle" if tid == 0 else events.info.comms.get(tid, "?")
        poster = f"pCPU {int(posts.cpu[post])}, in thread {comm}-{tid}"
        if posts.given[post] != Given.TRACED:
            evidence, poster = "given", ""
    elif f.window[index] >= 0:
        until_ns = int(windows.load_ns[f.window[index]])
    return Notification(
        vcpu=vcpu.label,
        tid=vcpu.tid,
        comm=vcpu.comm,
        vector=vector if vector >= 0 else None,
        agent="hardware" if by_hardware else "kvm",
        as_if=by_hardware and post >= 0,
        evidence=evidence,
        origin=origin,
        origin_text=origin_text,
        ts_ns=ts_ns,
        after_ns=ts_ns - timeline.span_ns[0],
        until_ns=until_ns,
        doing=_doing(analysis, index, ts_ns),
        poster=poster,
        stimulus=stimulus,
        findings={
            policy: place * len(f) + index
            for place, policy in enumerate(analysis.results)
        },
    )


def _origin(analysis: Analysis, post: int) -> tuple[str, str]:
    posts = analysis.timeline.posts
    origin, evidence = (
        Origin(int(posts.origin[post])),
        Evidence(int(posts.evidence[post])),
    )
    text = f"{ORIGINS[origin]}; {EVIDENCE[evidence]}"
    if posts.device[post] >= 0:
        text += f", {posts.devices[int(posts.device[post])]}"
    if evidence in INFERRED:
        text += " (inferred)"
    return origin.label, text


def _doing(analysis: Analysis, index: int, ts_ns: int) -> str:
    f = next(iter(analysis.results.values())).findings
    windows = analysis.timeline.windows
    window = int(f.window[index])
    if window < 0:
        kind = Kind(int(f.kind[index]))
        if kind == Kind.UNKNOWN:
            return "of which the trace does not tell what it did"
        return f"loaded on pCPU {_own_cpu(analysis, index)}, {_HOST_WORDS[kind]}"
    reason = REASON_WORDS[PutReason(int(windows.reason[window])).label]
    put_ns, load_ns = int(windows.put_ns[window]), int(windows.load_ns[window])
    ended = "loaded" if windows.load_row[window] >= 0 else "the trace ends or loses it"
    since = f"{duration_text(ts_ns - put_ns)} ago" if ts_ns > put_ns else "here"
    return (
        f"not loaded, {reason}: put {since} on pCPU {int(windows.put_cpu[window])},"
        f" {ended} {duration_text(load_ns - ts_ns)} later"
    )


def _own_cpu(analysis: Analysis, index: int) -> str:
    stimuli = analysis.stimuli
    f = next(iter(analysis.results.values())).findings
    at = int(f.stimulus[index])
    first = int(stimuli.starts[stimuli.vcpu[at]])
    # a loaded vCPU stays where it is: the pCPU of its own last event before this
    for before in range(at - 1, first - 1, -1):
        if stimuli.post[before] < 0:
            return str(int(stimuli.cpu[before]))
    return "?"


def _notes(analysis: Analysis, steps: list[Step]) -> list[str]:
    notes = []
    hardware = [p for p in analysis.walks.values() if not p.policy.block_in_put]
    if hardware:
        notes.append(
            "pi_pre_block and pi_post_block of kernels up to 5.16 lie between the"
            " steps, and are not told."
        )
    seen = [
        s
        for s in steps
        if s.letter.startswith("OBSERVE_")
        and any(c.before.states != c.after.states for c in s.policies.values())
    ]
    if seen and analysis.posted != "none" and len(analysis.timeline.posts):
        notes.append(
            "The probes read the descriptor as KVM's own posts left it, not a device's"
            " that are assumed: where a step says `probe reads`, the replay goes on"
            " from what was read."
        )
    if any(change.contradiction for s in steps for change in s.policies.values()):
        notes.append(
            "A step that no possible state allows: the trace misses something there"
            " that no loss tells of; any state is taken as possible before it."
        )
    return notes


def near_account(analysis: Analysis, picked: Picked, account: Account) -> Near:
    """Which events belong to the account, which has this analysis' own numbers."""
    stimuli, events = analysis.stimuli, analysis.events
    posts, windows = analysis.timeline.posts, analysis.timeline.windows
    note, steps = account.notification, account.steps
    places = [step.stimulus for step in steps if step.stimulus is not None]
    rows = stimuli.row[places].tolist()
    row = int(stimuli.row[note.stimulus])
    post = int(stimuli.post[note.stimulus])
    f = next(iter(analysis.results.values())).findings
    window = int(f.window[picked.index])
    more: list[int] = []
    tids = {note.tid}
    cpus = {int(stimuli.cpu[note.stimulus])}
    if post >= 0:
        more += [int(posts.at[post]), int(posts.row[post])]
        tids.add(int(posts.tid[post]))
    instants = [(row, int(stimuli.cpu[note.stimulus]))]
    for policy in analysis.results:
        guest = analysis.occupancy.guest
        for i in guest_stretches(analysis, policy, picked.index)[:1].tolist():
            more += _rows_at(analysis, int(guest.cpu[i]), int(guest.start_ns[i]))
            more += _rows_at(analysis, int(guest.cpu[i]), int(guest.end_ns[i]))
    for cpu in _notified(analysis, picked.index):
        cpus.add(cpu)
        instants.append((row, cpu))
        if note.until_ns is not None and windows.load_row[window] >= 0:
            instants.append((int(windows.load_row[window]), cpu))
    return near_of(
        events,
        steps,
        rows,
        more,
        instants,
        frozenset(cpus),
        frozenset(tids - {0}),
        note.ts_ns,
    )


def _rows_at(analysis: Analysis, cpu: int, ts_ns: int) -> list[int]:
    """Rows of EVENTS at that instant on that pCPU."""
    events = analysis.events
    low, high = np.searchsorted(events.ts_ns, (ts_ns, ts_ns + 1))
    rows: list[int] = (low + np.flatnonzero(events.cpu[low:high] == cpu)).tolist()
    return rows


def _notified(analysis: Analysis, index: int) -> Iterable[int]:
    cpus = {int(r.findings.cpu[index]) for r in analysis.results.values()}
    return sorted(cpu for cpu in cpus if cpu >= 0)


assert set(_HOST_WORDS) == set(Kind) - {Kind.UNKNOWN}
