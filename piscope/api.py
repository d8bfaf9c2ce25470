"""piscope from Python: what the commands say, with the tables that it rests on.

    result = piscope.analyze("trace.dat", policies=("preempt-only", "suppress-on-put"))
    result.summary.policies["suppress-on-put"].unloaded_notifications
    result.findings.to_pandas()

docs/python.md is the guide; `schema` documents every table and column.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piscope import pipeline, sliced_pipeline
from piscope.exits_pipeline import report_exits
from piscope.model.policy import DEFAULT_PLATFORM, Platform
from piscope.pipeline import Part
from piscope.posted import Posted, parse_posted
from piscope.replay.fastpath import DEFAULT_FASTPATH
from piscope.report.exit_report import ExitReport
from piscope.report.json_form import as_json
from piscope.report.render import render, render_markdown
from piscope.report.render_exits import render_exits
from piscope.report.render_layout import LEAST_COLUMNS
from piscope.report.selection import Selection
from piscope.report.summarize_exits import Sort
from piscope.report.summary import Summary
from piscope.report.tally import Tallies
from piscope.sources.detect import open_trace

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ("ExitsResult", "Result", "analyze", "exits")


class Result:
    """One analyzed trace: its summary, and its tables as `pyarrow.Table`s.

    `str(result)` is the report of `piscope analyze`, `as_dict()` its JSON,
    `summary` the same numbers as objects. Tables are made when they are first asked
    for; they hold the whole trace, whatever vCPUs the summary was narrowed to.

    parts  the analysis part after part; a trace that is short, or was to be analyzed
           at once, is one part. A long one is read again each time
    """

    def __init__(self, parts: Iterable[Part], summary: Summary) -> None:
        self.parts = parts
        self.summary = summary

    @property
    def analysis(self) -> pipeline.Analysis:
        """The analysis of a trace in one part.

        Raises ValueError where there are several.
        """
        part = next(iter(self.parts))
        if not part.own.is_whole:
            raise ValueError(
                "a long trace is analyzed in parts: go through Result.parts, or"
                " analyze it with at_once=True"
            )
        return part.analysis

    def batches(self, name: str) -> Iterator[pa.Table]:
        """The rows of that table, so many at a time: a long trace needs no more memory.

        Raises KeyError for a name that is not in `schema.TABLES`, in upper or lower
        case.
        """
        from piscope.part_tables import PartTables
        from piscope.schema import TABLES

        wanted = (TABLES[name.upper()].name,)
        tables = PartTables()
        for part in self.parts:
            for _, table in tables.tables_of(part, wanted):
                yield table
            del part

    def table(self, name: str) -> pa.Table:
        """The table of that name (`schema.TABLES`), in upper or lower case.

        Raises KeyError for any other name.
        """
        import pyarrow as pa

        return pa.concat_tables(self.batches(name))

    @cached_property
    def events(self) -> pa.Table:
        """EVENTS: the tracepoint hits that were read, one a row."""
        return self.table("EVENTS")

    @cached_property
    def losses(self) -> pa.Table:
        """LOSSES: what the trace does not know."""
        return self.table("LOSSES")

    @cached_property
    def vcpus(self) -> pa.Table:
        """VCPUS: the vCPUs."""
        return self.table("VCPUS")

    @cached_property
    def intervals(self) -> pa.Table:
        """INTERVALS: the stretches of each vCPU's life, which tile it."""
        return self.table("INTERVALS")

    @cached_property
    def windows(self) -> pa.Table:
        """WINDOWS: the puts, each with the load that ends its window."""
        return self.table("WINDOWS")

    @cached_property
    def posts(self) -> pa.Table:
        """POSTS: the interrupts that KVM accepted for a vCPU."""
        return self.table("POSTS")

    @cached_property
    def stimuli(self) -> pa.Table:
        """STIMULI: what each descriptor met, in order."""
        return self.table("STIMULI")

    @cached_property
    def findings(self) -> pa.Table:
        """FINDINGS: what became of each post under each policy."""
        return self.table("FINDINGS")

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `piscope analyze --json`, as plain values."""
        return as_json(self.summary)

    def text(self, width: int = LEAST_COLUMNS) -> str:
        """The report of `piscope analyze`, 80 to 120 columns wide."""
        return render(self.summary, width=width)

    def markdown(self) -> str:
        """The report as Markdown of 80 columns."""
        return render_markdown(self.summary)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        trace = self.summary.trace
        return (
            f"<piscope.Result of {trace.path!r}: {trace.events:,} events, "
            f"{len(self.summary.vcpus)} vCPUs, {', '.join(self.summary.policies)}>"
        )


class ExitsResult:
    """The VM-exits of one trace: `report` as objects, `table` as long-format rows."""

    def __init__(self, report: ExitReport) -> None:
        self.report = report

    @cached_property
    def table(self) -> pa.Table:
        """One number a row, with the columns of report.exit_rows."""
        from piscope.report.exit_rows import exit_rows_table

        return exit_rows_table(self.report)

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `piscope exits --json`, as plain values."""
        return self.report.as_dict()

    def text(self, width: int = LEAST_COLUMNS) -> str:
        """The report of `piscope exits`, 80 to 120 columns wide."""
        return render_exits(self.report, width=width)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        trace = self.report.trace
        return (
            f"<piscope.ExitsResult of {trace.path!r}: {self.report.all.count:,} exits>"
        )


def analyze(
    path: str | os.PathLike[str],
    *,
    policies: Iterable[str] = pipeline.DEFAULT_POLICIES,
    posted: Posted = "auto",
    fastpath: Iterable[int] = DEFAULT_FASTPATH,
    platform: Platform = DEFAULT_PLATFORM,
    ignore: Iterable[str] = (),
    vms: Iterable[int] | None = None,
    vcpus: Iterable[str] = (),
    cpus: Iterable[int] | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
    tsc_khz: int | None = None,
    at_once: bool = False,
) -> Result:
    """Say what the posted-interrupt notifications in a trace hit, under each policy.

    The arguments are those of `piscope analyze`: `policies` by name, `posted` which of
    KVM's posts to replay as hardware's ("auto", "none", "msi", "vfio,ipi", ...),
    `fastpath` the exit reasons that the policy more-fastpath shelters, `platform` what
    the replayed host and VM offer (model.policy.Platform), `ignore` patterns of events
    to treat as absent; `vms`, `vcpus` (labels, vcpu_ids or `tid:N`) and `cpus` narrow
    the summary; `start_ns` and `end_ns` narrow what is read, half-open, in ns of the
    trace's clock; `tsc_khz` is the frequency of a raw x86-tsc clock. A trace of more
    than two million events is analyzed in slices, in bounded memory, if it is a file
    and not to be analyzed `at_once`; the result keeps it open.

    Raises PiscopeError, whose message says where and why, for a trace that can't be
    read or can't answer, and for arguments that name what does not exist.
    """
    from piscope.errors import UsageError
    from piscope.model.policy import POLICIES

    names = tuple(dict.fromkeys(policies))
    for name in names:
        if name not in POLICIES:
            known = ", ".join(POLICIES)
            raise UsageError(f"{name!r} is no policy: expected one of {known}")
    parse_posted(posted)
    selection = _selection(vms, vcpus, cpus)
    rereadable = Path(path).is_file()
    source = open_trace(os.fspath(path))
    try:
        parts = sliced_pipeline.parts_of(
            source,
            policies=names,
            posted=posted,
            fastpath=frozenset(fastpath),
            platform=platform,
            ignore=tuple(ignore),
            start_ns=start_ns,
            end_ns=end_ns,
            tsc_khz=tsc_khz,
            slice_rows=sliced_pipeline.SLICE_ROWS,
            whole_rows=(
                sliced_pipeline.WHOLE_ROWS if rereadable and not at_once else None
            ),
        )
        tallies = Tallies(selection)
        for part in parts:
            tallies.add(part)
            in_one = part.own.is_whole
            del part
        result = Result(parts, tallies.finish())
    except BaseException:
        source.close()
        raise
    if in_one:
        source.close()
    else:
        weakref.finalize(result, source.close)
    return result


def exits(
    path: str | os.PathLike[str],
    *,
    sort: Sort = "time",
    outliers: int = 5,
    ignore: Iterable[str] = (),
    vms: Iterable[int] | None = None,
    vcpus: Iterable[str] = (),
    start_ns: int | None = None,
    end_ns: int | None = None,
    tsc_khz: int | None = None,
) -> ExitsResult:
    """Count a trace's VM-exits by reason, time them, and tell each vCPU's budget.

    Counts and times are those of `perf kvm stat report`. `sort` is the order of the
    reasons ("count", "time" or "max"), `outliers` how many exits to list; the other
    arguments are as for `analyze`.

    Raises PiscopeError as `analyze` does; SVM hosts are answered here.
    """
    selection = _selection(vms, vcpus, None)
    with closing(open_trace(os.fspath(path))) as source:
        report = report_exits(
            source,
            selection=selection,
            sort=sort,
            outliers=outliers,
            ignore=tuple(ignore),
            start_ns=start_ns,
            end_ns=end_ns,
            tsc_khz=tsc_khz,
            rereadable=Path(path).is_file(),
        )
    return ExitsResult(report)


def _selection(
    vms: Iterable[int] | None, vcpus: Iterable[str], cpus: Iterable[int] | None
) -> Selection:
    return Selection(
        vms=None if vms is None else frozenset(vms),
        vcpus=tuple(vcpus),
        cpus=None if cpus is None else frozenset(cpus),
    )
