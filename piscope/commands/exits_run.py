"""From the arguments of `piscope exits` to its report, on a terminal or in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import click

from piscope.allocator import keep_freed_memory
from piscope.commands.narrowed import narrowed
from piscope.commands.opening import is_pipe
from piscope.commands.printing import echo_report
from piscope.commands.selected import selected
from piscope.errors import UsageError
from piscope.exits_pipeline import report_exits
from piscope.output import replacing
from piscope.report.exit_report import ExitReport
from piscope.report.render_exits import render_exits
from piscope.report.summarize_exits import Sort

__all__ = ("Request", "run_exits")


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for, as it was written.

    sort, outliers  order of the reasons, and how many outliers to list
    vms             a list such as `0-3,5`; None: all
    vcpus           labels, vcpu_ids, `tid:N`; empty: all
    ignore          patterns of events to treat as absent
    start, end      instants as moments.parse_moment reads them; None: open
    tsc_khz         frequency of a raw x86-tsc clock; None: not given
    """

    sort: Sort = "time"
    outliers: int = 5
    vms: str | None = None
    vcpus: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    start: str | None = None
    end: str | None = None
    tsc_khz: int | None = None


def run_exits(
    trace: str,
    request: Request,
    *,
    output: str | None = None,
    as_json: bool = False,
    width: int | None = None,
    quiet: bool = False,
) -> None:
    """Print the report of a trace as text or JSON, or write its rows to `output`.

    Raises UsageError for a request that makes no sense, and what the trace raises.
    """
    keep_freed_memory()
    format_ = None if output is None else _format_of(output)
    if output is not None and as_json:
        raise UsageError("--json goes to standard output: give it without -o")
    report = _reported(trace, request, quiet=quiet)
    if output is not None and format_ is not None:
        _write_rows(report, output, format_)
    elif as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, allow_nan=False))
    else:
        echo_report(
            lambda columns, color: render_exits(report, width=columns, color=color),
            width,
        )


def _format_of(path: str) -> Literal["csv", "parquet"]:
    suffix = PurePath(path).suffix.lower()
    if suffix == ".csv":
        return "csv"
    if suffix in (".parquet", ".pq"):
        return "parquet"
    raise UsageError("expected a name ending in .csv, .parquet or .pq", path=path)


def _write_rows(
    report: ExitReport, path: str, format_: Literal["csv", "parquet"]
) -> None:
    from piscope.report.exit_rows import exit_rows_table

    table = exit_rows_table(report)
    with replacing(path) as file:
        if format_ == "csv":
            import pyarrow.csv

            pyarrow.csv.write_csv(table, file)
        else:
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, file, compression="zstd")


def _reported(trace: str, request: Request, *, quiet: bool) -> ExitReport:
    selection = selected(request.vms, request.vcpus)
    rereadable = not is_pipe(trace)  # before it is opened: that may use up a pipe
    with narrowed(
        trace, request.start, request.end, ignore=request.ignore, quiet=quiet
    ) as (source, (start_ns, end_ns)):
        report = report_exits(
            source,
            selection=selection,
            sort=request.sort,
            outliers=request.outliers,
            ignore=request.ignore,
            start_ns=start_ns,
            end_ns=end_ns,
            tsc_khz=request.tsc_khz,
            rereadable=rereadable,
        )
    for name, text in (("from", request.start), ("to", request.end)):
        if text is not None:
            report.narrowed[name] = text
    return report
