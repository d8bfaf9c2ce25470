"""Everything of the verification in order, made into one account.

hits -> transitions -> candidates -> finding -> kinds, groups, disagreements, counters
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from piscope.interrupts import Counted
from piscope.model.descriptor import POSTED_INTR_WAKEUP_VECTOR
from piscope.model.policy import policy_of_release
from piscope.tables import Events, Timeline, Vcpus
from piscope.verify.account import (
    SCHEMA_VERSION,
    Account,
    CandidateLine,
    CounterLine,
    KindLine,
)
from piscope.verify.allowed import By
from piscope.verify.apic_ids import ApicIds, learn_apic_ids
from piscope.verify.counters import Evidence, compare
from piscope.verify.describe import kind_of, rule_of, source_of
from piscope.verify.disagreements import Disagreeing, list_disagreements
from piscope.verify.finding import Candidate, candidates, find
from piscope.verify.kvm_posts import earliest_rows, kvm_posts
from piscope.verify.observations import CUTS, Hits, read_hits
from piscope.verify.put_kinds import tell_puts_of_running_threads
from piscope.verify.transitions import Transitions, build_transitions
from piscope.verify.verdict import conclude

__all__ = ("Traced", "verify")


@dataclass(frozen=True, slots=True)
class Traced:
    """A trace, read.

    vcpus     its vCPUs; also where the trace has no timeline
    timeline  None: the trace holds too little for one
    blind     int64[n, 2]  rows from which events are missing, as Timeline.blind
    vcpu_of   the vCPU of each row of an event, by its name; -1: not known
    recorded  the probes: as recorded -> as read
    ctl_first the probes read the control word before PIR; None: not known
    """

    events: Events
    vcpus: Vcpus
    timeline: Timeline | None
    blind: npt.NDArray[np.int64]
    vcpu_of: Callable[[str], npt.NDArray[np.int32]]
    recorded: dict[str, str]
    ctl_first: bool | None


def verify(
    traced: Traced,
    *,
    policy: str | None = None,
    apic_ids: ApicIds | None = None,
    counted: Counted | None = None,
    limit: int = 10,
) -> Account:
    """Hold the model against what the probes read.

    `policy` names the one to verify, None: the one that fits best; `apic_ids` are
    given, or learned; `counted` are PIN and PIW of the capture; `limit` is the
    number of disagreements that are listed one by one.
    """
    events = traced.events
    hits, unknown = read_hits(events, traced.vcpus, traced.blind, traced.vcpu_of)
    told = tell_puts_of_running_threads(events, hits)
    known = apic_ids or learn_apic_ids(hits)
    posts = None if traced.timeline is None else traced.timeline.posts
    recorded = posts is not None and _kvm_posts_recorded(events)
    earliest = None if posts is None else earliest_rows(events, posts)
    kvm = kvm_posts(posts, traced.vcpus, earliest, recorded)
    transitions = build_transitions(hits, known, kvm)
    account = _opening(traced, policy, hits, unknown, known, len(transitions))
    if not len(transitions):
        conclude(account, None, transitions, recorded)
        return account
    held = candidates(transitions, traced.ctl_first)
    release = events.info.kernel_release
    finding = find(
        transitions, held, policy, policy_of_release(release) if release else None
    )
    chosen = finding.verified
    account.policy, account.policy_title = chosen.policy.name, chosen.policy.title
    account.platform = chosen.platform
    account.candidates = [
        CandidateLine(c.policy.name, c.platform, c.disagreements) for c in held
    ]
    account.rivals = finding.rivals
    _compare(account, transitions, chosen)
    list_disagreements(
        account,
        Disagreeing(events, traced.vcpus, hits, transitions, known, chosen),
        limit,
    )
    if counted is not None and traced.timeline is not None:
        account.counters = _counters(
            traced, traced.timeline, counted, hits, transitions, known, chosen, recorded
        )
    conclude(account, finding, transitions, recorded)
    if events.losses:
        causes = ", ".join(dict.fromkeys(loss.cause for loss in events.losses))
        account.remarks.append(
            f"the trace lost events ({causes}): what is missing at places that it does "
            "not tell may look like a disagreement"
        )
    if told:
        account.remarks.append(
            f"{told:,} puts: preempted and blocking were not read, but the thread runs "
            "on (sched_switch), so that it is neither"
        )
    return account


def _kvm_posts_recorded(events: Events) -> bool:
    return events.has("kvm_apicv_accept_irq") or events.has("kvm_apic_accept_irq")


def _opening(
    traced: Traced,
    policy: str | None,
    hits: Hits,
    unknown: int,
    apic_ids: ApicIds,
    transitions: int,
) -> Account:
    info = traced.events.info
    cuts = np.bincount(hits.cut_by[~hits.joined], minlength=len(CUTS))
    return Account(
        schema_version=SCHEMA_VERSION,
        trace=info.path,
        format=info.format,
        kernel_release=info.kernel_release,
        vcpus=len(np.unique(hits.vcpu)),
        asked=policy,
        policy=None,
        policy_title="",
        platform=None,
        status=0,
        verdict="",
        probes=dict(traced.recorded),
        hits=len(hits),
        readings=int(hits.read.sum()),
        unknown_hits=unknown,
        cuts={why: int(n) for why, n in zip(CUTS, cuts, strict=True) if n},
        transitions=transitions,
        by_trace=0,
        by_trace_armed=0,
        apic_ids=dict(apic_ids.ndst),
        apic_form=apic_ids.form,
    )


def _compare(account: Account, transitions: Transitions, chosen: Candidate) -> None:
    """The transitions by kind: how many agree, and by what."""
    count = np.bincount(transitions.case, minlength=len(transitions.cases)).tolist()
    by_kind: dict[str, list[int]] = {}
    for number, case in enumerate(transitions.cases):
        by_kind.setdefault(kind_of(case), []).append(number)
    for kind, numbers in sorted(by_kind.items()):
        by = dict.fromkeys(By, 0)
        for number in numbers:
            by[chosen.answers[number].by] += count[number]
            if chosen.answers[number].by_trace:
                account.by_trace += count[number]
                armed = transitions.cases[number].to_nv == POSTED_INTR_WAKEUP_VECTOR
                account.by_trace_armed += count[number] * armed
        commonest = transitions.cases[max(numbers, key=lambda n: count[n])]
        total = sum(by.values())
        account.kinds.append(
            KindLine(
                kind=kind,
                transitions=total,
                agree=total - by[By.NOTHING],
                exactly=by[By.MODEL],
                by_kvm=by[By.KVM],
                by_hardware=by[By.HARDWARE],
                between_reads=by[By.BETWEEN],
                rule=rule_of(commonest, chosen.kernel),
                source=source_of(commonest, chosen.kernel),
            )
        )
    account.disagreements = chosen.disagreements


def _counters(
    traced: Traced,
    timeline: Timeline,
    counted: Counted,
    hits: Hits,
    transitions: Transitions,
    apic_ids: ApicIds,
    chosen: Candidate,
    recorded: bool,
) -> list[CounterLine]:
    events = traced.events
    wakeups = [
        events.cpu[events.rows(name)]
        for _, name in dict.fromkeys(events.names)
        if name.endswith(("pi_wakeup", "pi_wakeup_handler")) and events.has(name)
    ]
    return compare(
        counted,
        Evidence(
            hits=hits,
            transitions=transitions,
            apic_ids=apic_ids,
            timeline=timeline,
            kernel=chosen.kernel,
            kvm_recorded=recorded,
            lossy=bool(events.losses),
            wakeups=wakeups[0].astype(np.int32) if len(wakeups) == 1 else None,
        ),
    )
