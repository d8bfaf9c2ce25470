"""What `--posts`, `--rate`, `--rate-curve` and `--interrupts` ask: checked, answered.

Read beside analyze_run, which opens the trace and prints the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from piscope.commands.rate_options import parse_curve, parse_rates
from piscope.counters_pipeline import Snapshot, counters_of
from piscope.errors import UsageError
from piscope.interrupts import counted_between, read_interrupts
from piscope.pipeline import Analysis
from piscope.rates_pipeline import RateRequest, rates_of
from piscope.report.selection import Selection
from piscope.report.summary import Summary
from piscope.timeline.markers import marked_snapshots
from piscope.timeline.user_posts import UserPosts, read_user_posts

__all__ = ("Asked", "Told", "answer")


@dataclass(frozen=True, slots=True)
class Asked:
    """The options, as they were written.

    posts       a file of posts; None: not given
    interrupts  two copies of /proc/interrupts; None: not given
    rate, rate_curve  as `rate_options` reads them; None: not given
    senders     vCPUs whose IPIs the posts at a rate are
    """

    posts: str | None = None
    interrupts: tuple[str, str] | None = None
    rate: str | None = None
    rate_curve: str | None = None
    senders: tuple[str, ...] = ()

    def read(self, traces: Sequence[str], *, narrowed: bool) -> Told:
        """The same, read and checked as far as can be without a trace.

        Raises UsageError for options that contradict each other or make no sense,
        TraceFormatError for a file that is not what it should be.
        """
        for option, value in (
            ("--posts", self.posts),
            ("--interrupts", self.interrupts),
        ):
            if value is not None and len(traces) > 1:
                raise UsageError(f"{option} belongs to one trace, not to {len(traces)}")
        if self.interrupts is not None and narrowed:
            raise UsageError(
                "--interrupts counts over the whole trace: leave out --from and --to"
            )
        rates = RateRequest(
            rates_hz=None if self.rate is None else parse_rates(self.rate),
            curve_hz=() if self.rate_curve is None else parse_curve(self.rate_curve),
            senders=self.senders,
        )
        counts: tuple[Snapshot, ...] = ()
        if self.interrupts is not None:
            tables = [read_interrupts(path) for path in self.interrupts]
            counted_between(tables, self.interrupts[1])
            counts = tuple((None, table) for table in tables)
        return Told(
            posts=None if self.posts is None else read_user_posts(self.posts),
            rates=rates,
            counts=counts,
            counts_path="" if self.interrupts is None else self.interrupts[1],
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What the options and their files say.

    counts  two snapshots from files; empty: not given
    """

    posts: UserPosts | None = None
    rates: RateRequest = RateRequest()  # noqa: RUF009 - frozen
    counts: tuple[Snapshot, ...] = ()
    counts_path: str = ""

    @property
    def of_whole(self) -> bool:
        """Whether anything is told, which is of the whole of a trace, not of parts."""
        rates = self.rates.asks or bool(self.rates.senders)
        return self.posts is not None or rates or bool(self.counts)


def answer(
    summary: Summary, analysis: Analysis, told: Told, selection: Selection
) -> None:
    """Add to the summary what was asked, and what the trace's own markers tell.

    Raises UsageError for names that the trace does not hold.
    """
    summary.rates = rates_of(analysis, told.rates, selection)
    snapshots, source, path = told.counts, "files", told.counts_path
    if not snapshots:
        snapshots = marked_snapshots(analysis.events)
        source, path = "trace", summary.trace.path
    if len(snapshots) > 1:
        summary.counters = counters_of(
            analysis,
            snapshots,
            selection,
            source=source,
            path=path,
            senders=told.rates.senders,
        )
    elif told.rates.senders and not told.rates.asks:
        raise UsageError(
            "--sender is for posts at a rate: add --rate, --rate-curve or --interrupts"
        )
