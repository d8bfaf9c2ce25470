"""Posts counted part by part, and made into a report at last."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from piscope.origins import INFERRED, ORIGINS, Evidence, Origin, Target
from piscope.report.posts_missing import MissingTally
from piscope.report.posts_report import OriginLine, PostsReport
from piscope.sources.raw import Array, TraceInfo
from piscope.tables import Events, Posts, Timeline

__all__ = ("PostsTally",)

_NO_NAME = "?"


class PostsTally:
    """Counts of posts, added in the order of the trace.

    They are as many as origins, threads, vCPUs and vectors; no part is held on to.
    Codes are counted, and named and sorted at last, so that the report is the same for
    any split.
    """

    def __init__(self) -> None:
        self._targets = self._learned = self._not_posted = 0
        self._target_by: Counter[int] = Counter()
        self._origins = {origin: _OriginTally() for origin in Origin}
        self._missing = MissingTally()
        self._info: TraceInfo | None = None
        self._labels: list[str] = []

    def add(
        self, events: Events, timeline: Timeline, which: npt.NDArray[np.int64]
    ) -> None:
        """Count the posts of those indices."""
        posts = timeline.posts
        told = posts.vcpu[which] >= 0
        self._targets += int(told.sum())
        self._learned += int((told & ~posts.certain[which]).sum())
        self._not_posted += int((~posts.posted[which]).sum())
        self._target_by.update(_numbers(posts.target_by[which]))
        origin = posts.origin[which]
        for code in np.unique(origin).tolist():
            self._origins[Origin(code)].add(posts, which[origin == code])
        self._missing.add(events, posts, which)
        self._info = events.info
        self._labels = [vcpu.label for vcpu in timeline.vcpus.rows]

    def finish(self, duration_ns: int, unseen: int | None) -> PostsReport:
        """The report of all that was added; the arguments as in PostsReport.

        Raises ValueError where nothing was.
        """
        info = self._info
        if info is None:
            raise ValueError("a report of no part")
        lines = [
            tally.finish(origin, info, self._labels)
            for origin, tally in self._origins.items()
            if tally.posts
        ]
        lines.sort(key=lambda line: (line.origin == "unknown", -line.posts))
        known = [line for line in lines if line.origin != "unknown"]
        return PostsReport(
            path=info.path,
            kernel_release=info.kernel_release,
            duration_ns=duration_ns,
            posts=sum(line.posts for line in lines),
            known=sum(line.posts for line in known),
            inferred=sum(line.inferred for line in known),
            targets=self._targets,
            learned=self._learned,
            target_by=_named(self._target_by, Target),
            not_posted=self._not_posted,
            unseen=unseen,
            origins=lines,
            missing=self._missing.finish(),
        )


class _OriginTally:
    """Counts of the posts of one origin; by code each, but for interrupts by name."""

    def __init__(self) -> None:
        self.posts = self._postable = 0
        self._evidence: Counter[int] = Counter()
        self._interrupts: Counter[str] = Counter()
        self._threads: Counter[int] = Counter()
        self._vcpus: Counter[int] = Counter()
        self._vectors: Counter[int] = Counter()

    def add(self, posts: Posts, which: npt.NDArray[np.int64]) -> None:
        self.posts += len(which)
        self._postable += int(posts.postable[which].sum())
        self._evidence.update(_numbers(posts.evidence[which]))
        self._vcpus.update(_numbers(posts.vcpu[which]))
        self._vectors.update(_numbers(posts.vector[which]))
        irq, device = posts.host_irq[which], posts.device[which]
        thread = (irq < 0) & (device < 0)
        self._threads.update(_numbers(posts.tid[which[thread]]))
        pairs = zip(irq[~thread].tolist(), device[~thread].tolist(), strict=True)
        # parts number devices each for themselves
        for (number, index), count in Counter(pairs).items():
            self._interrupts[_interrupt(posts, number, index)] += count

    def finish(self, origin: Origin, info: TraceInfo, labels: list[str]) -> OriginLine:
        return OriginLine(
            origin=origin.label,
            meaning=ORIGINS[origin],
            posts=self.posts,
            inferred=sum(self._evidence[evidence] for evidence in INFERRED),
            postable=self._postable,
            evidence=_named(self._evidence, Evidence),
            posters=self._posters(info),
            vcpus={
                labels[vcpu] if vcpu >= 0 else _NO_NAME: n
                for vcpu, n in sorted(self._vcpus.items())
            },
            vectors=dict(sorted(self._vectors.items())),
        )

    def _posters(self, info: TraceInfo) -> dict[str, int]:
        found = self._interrupts.copy()
        for tid, count in sorted(self._threads.items()):
            comm = info.comms.get(tid, _NO_NAME)
            found["in interrupts" if tid == 0 else f"{comm}[{tid}]"] += count
        return dict(found.most_common())


def _interrupt(posts: Posts, host_irq: int, device: int) -> str:
    """An interrupt by name, and by its number on the host."""
    if device < 0:
        return f"IRQ {host_irq}"
    number = f", IRQ {host_irq}" if host_irq >= 0 else ""
    return f"{posts.devices[device]}{number}"


def _numbers(codes: Array) -> dict[int, int]:
    """How often each code comes."""
    found, count = np.unique(codes, return_counts=True)
    return dict(zip(found.tolist(), count.tolist(), strict=True))


def _named(
    counts: Counter[int], words: type[Evidence] | type[Target]
) -> dict[str, int]:
    """The same by name, most first, of equally many in the order of codes."""
    named = Counter({words(code).label: n for code, n in sorted(counts.items())})
    return dict(named.most_common())
