"""Whose posts a trace holds: by origin, vCPU, vector and poster, and what is not told.

`PostsReport` is what every form of `piscope posts` is made from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from piscope import __version__
from piscope.origins import EVIDENCE, INFERRED, ORIGINS, Evidence, Origin, Target
from piscope.sources.raw import Array
from piscope.tables import Events, Given, Posts, Timeline

__all__ = ("Missing", "OriginLine", "PostsReport", "count_posts", "missing_events")

SCHEMA_VERSION = 1
_NO_NAME = "?"


@dataclass(slots=True)
class OriginLine:
    """The posts of one origin.

    origin    a word of origins.Origin
    meaning   what it is, for people
    posts     how many
    inferred  of them: on evidence that leaves another origin possible
    postable  of them: hardware could have posted them
    evidence  how many by what tells
    posters   thread name, or the interrupt's name -> how many
    vcpus     label -> how many; posts without a target are under "?"
    vectors   vector -> how many
    """

    origin: str
    meaning: str
    posts: int
    inferred: int
    postable: int
    evidence: dict[str, int]
    posters: dict[str, int]
    vcpus: dict[str, int]
    vectors: dict[int, int]


@dataclass(slots=True)
class Missing:
    """Events that this trace lacks, and what they would have told of how many posts.

    events  `system:name` each
    tells   a clause for people
    posts   that it concerns
    """

    events: list[str]
    tells: str
    posts: int


@dataclass(slots=True)
class PostsReport:
    """The posts of one trace.

    posts        interrupts that KVM accepted, in what was asked for
    known        those whose origin is told
    inferred     of the known: on evidence that leaves another origin possible
    targets      those whose target vCPU is told
    learned      of these: from other posts
    target_by    how many by what tells the target
    not_posted   of all: into IRR, since APICv was off
    unseen       windows into which hardware posted without an event, as probes betray;
                 null: no probe tells
    origins      most posts first, "unknown" last
    missing      what to record to know more
    """

    path: str
    kernel_release: str | None
    duration_ns: int
    posts: int
    known: int
    inferred: int
    targets: int
    learned: int
    target_by: dict[str, int]
    not_posted: int
    unseen: int | None
    origins: list[OriginLine]
    missing: list[Missing]
    narrowed: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    piscope_version: str = __version__

    def as_dict(self) -> dict[str, Any]:
        """The JSON document, as plain values."""
        return asdict(self)


def count_posts(
    events: Events,
    timeline: Timeline,
    which: npt.NDArray[np.int64],
    unseen: int | None,
) -> PostsReport:
    """Count the posts of those indices; `unseen` as in PostsReport."""
    posts = timeline.posts
    origin, evidence = posts.origin[which], posts.evidence[which]
    inferred = np.isin(evidence, list(INFERRED))
    known = origin != Origin.UNKNOWN
    told = posts.vcpu[which] >= 0
    lines = [
        _line(events, timeline, which[origin == o], o)
        for o in Origin
        if (origin == o).any()
    ]
    lines.sort(key=lambda line: (line.origin == "unknown", -line.posts))
    begin_ns, end_ns = timeline.span_ns
    return PostsReport(
        path=events.info.path,
        kernel_release=events.info.kernel_release,
        duration_ns=end_ns - begin_ns,
        posts=len(which),
        known=int(known.sum()),
        inferred=int((known & inferred).sum()),
        targets=int(told.sum()),
        learned=int((told & ~posts.certain[which]).sum()),
        target_by=_counted(posts.target_by[which], Target),
        not_posted=int((~posts.posted[which]).sum()),
        unseen=unseen,
        origins=lines,
        missing=missing_events(events, posts, which),
    )


def _line(
    events: Events, timeline: Timeline, which: Array, origin: Origin
) -> OriginLine:
    posts = timeline.posts
    labels = [v.label for v in timeline.vcpus.rows]
    vcpus = _number(posts.vcpu[which])
    return OriginLine(
        origin=origin.label,
        meaning=ORIGINS[origin],
        posts=len(which),
        inferred=int(np.isin(posts.evidence[which], list(INFERRED)).sum()),
        postable=int(posts.postable[which].sum()),
        evidence=_counted(posts.evidence[which], Evidence),
        posters=_posters(events, posts, which),
        vcpus={labels[v] if v >= 0 else _NO_NAME: n for v, n in sorted(vcpus.items())},
        vectors=dict(sorted(_number(posts.vector[which]).items())),
    )


def _posters(events: Events, posts: Posts, which: Array) -> dict[str, int]:
    """Interrupts by name (with their host IRQ), and threads by theirs."""
    found: Counter[str] = Counter()
    irq, device = posts.host_irq[which], posts.device[which]
    for (number, name), count in _pairs(irq, device).items():
        if name >= 0:
            host_irq = f", IRQ {number}" if number >= 0 else ""
            found[f"{posts.devices[name]}{host_irq}"] += count
        elif number >= 0:
            found[f"IRQ {number}"] += count
    threads = posts.tid[which[(irq < 0) & (device < 0)]]
    for tid, count in _number(threads).items():
        comm = events.info.comms.get(tid, _NO_NAME)
        found["in interrupts" if tid == 0 else f"{comm}[{tid}]"] += count
    return dict(found.most_common())


def _pairs(a: Array, b: Array) -> Counter[tuple[int, int]]:
    return Counter(zip(a.tolist(), b.tolist(), strict=True))


def _number(values: Array) -> dict[int, int]:
    found, count = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), count.tolist(), strict=True))


def _counted(codes: Array, words: type[Evidence] | type[Target]) -> dict[str, int]:
    counts = Counter({words(code).label: n for code, n in _number(codes).items()})
    return dict(counts.most_common())


# For each: the posts that it concerns by their evidence, the events, what they tell.
_TELLING: tuple[tuple[frozenset[Evidence], tuple[str, ...], str], ...] = (
    (
        frozenset({Evidence.IRQ_CONTEXT}),
        ("irq:irq_handler_entry", "irq:irq_handler_exit"),
        "which device's interrupt the host handled",
    ),
    (
        frozenset(
            {Evidence.IRQ_CONTEXT, Evidence.PENDING_TIMER, Evidence.TIMER_VECTOR}
        ),
        ("irq_vectors:local_timer_entry", "irq_vectors:local_timer_exit"),
        "that a timer of the host expired",
    ),
    (
        frozenset({Evidence.EXIT_REASON, Evidence.OWN_THREAD}),
        ("kvm:kvm_apic_ipi",),
        "that a vCPU sent an IPI, of which kind",
    ),
    (
        frozenset({Evidence.EXIT_REASON, Evidence.OWN_THREAD}),
        ("kvm:kvm_exit",),
        "why the poster left its guest",
    ),
    (
        frozenset({Evidence.OWN_THREAD, Evidence.PENDING_TIMER}),
        ("kvm:kvm_vcpu_wakeup",),
        "that a halt had ended",
    ),
    (
        frozenset({Evidence.PENDING_TIMER}),
        ("sched:sched_waking",),
        "who woke the vCPU from its halt",
    ),
    (
        frozenset({Evidence.USER_THREAD, Evidence.OWN_THREAD, Evidence.VFIO_IRQ}),
        ("kvm:kvm_msi_set_irq",),
        "that it was an MSI, and whether it had one destination",
    ),
    (
        frozenset({Evidence.USER_THREAD}),
        ("kvm:kvm_set_irq", "kvm:kvm_ioapic_set_irq"),
        "that it was an interrupt line",
    ),
    (
        frozenset({Evidence.KWORKER, Evidence.IRQFD_INJECT}),
        ("workqueue:workqueue_queue_work", "workqueue:workqueue_execute_start"),
        "who signaled the irqfd",
    ),
)


def missing_events(events: Events, posts: Posts, which: Array) -> list[Missing]:
    """What the trace lacks that would tell more of the posts of those indices."""
    result = []
    traced = which[posts.given[which] == Given.TRACED]
    evidence = posts.evidence[traced]
    for concerns, names, tells in _TELLING:
        if any(events.has(name.partition(":")[2]) for name in names):
            continue
        number = int(np.isin(evidence, list(concerns)).sum())
        if number:
            result.append(Missing(list(names), tells, number))
    if not (events.has("kvm_apicv_accept_irq") or events.has("kvm_apic_accept_irq")):
        names = ("kvm:kvm_apicv_accept_irq", "kvm:kvm_apic_accept_irq")
        result.append(Missing(list(names), "which interrupts KVM posted", 0))
    no_target = int((posts.vcpu[traced] < 0).sum())
    if no_target and not events.has("sched_waking"):
        result.append(
            Missing(["sched:sched_waking"], "which vCPU a post woke", no_target)
        )
    return result


def shares(number: int, of: int) -> str:
    """`12.5%`, and never 100% of what is not all."""
    if not of:
        return "-"
    if number == of:
        return "100%"
    return f"{min(100 * number / of, 99.9):.1f}%"


def evidence_text(evidence: Iterable[tuple[str, int]]) -> Sequence[str]:
    """Each evidence with its number, in words."""
    meaning = {e.label: text for e, text in EVIDENCE.items()}
    return [f"{number:,}: {meaning[name]}" for name, number in evidence]
