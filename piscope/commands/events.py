"""`piscope events`: the decoded events of a trace as lines or as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from piscope.commands.options import from_option, ignore_option, to_option

if TYPE_CHECKING:
    from piscope.commands.event_files import Format

__all__ = ("events",)


@click.command()
@click.argument("trace")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write FILE instead of standard output; its suffix (.parquet, .csv, .jsonl,"
    " .txt) chooses the format. The file appears when it is complete.",
)
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(("text", "jsonl", "csv", "parquet")),
    help="Format, where the suffix does not say it.  [default: text]",
)
@click.option(
    "-e",
    "--event",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only events whose name, or system:name, matches; * and ? as in a shell."
    " Repeatable.",
)
@ignore_option
@click.option(
    "--absent",
    multiple=True,
    metavar="FIELD",
    help="As if the kernel did not record this field (name, or event.name)."
    " Repeatable.",
)
@click.option("--cpu", "cpus", metavar="LIST", help="Only these pCPUs, as in 0-3,5.")
@click.option("--tid", "tids", metavar="LIST", help="Only while these threads ran.")
@click.option(
    "--vcpu",
    "vcpus",
    metavar="LIST",
    help="Only what concerns the vCPUs with these ids: events of their threads, that"
    " name the vCPU, and switches and wakeups of the threads.",
)
@from_option
@to_option
@click.option(
    "-n", "--limit", type=click.IntRange(min=0), metavar="N", help="The first N events."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no notes.")
def events(
    trace: str,
    output: str | None,
    format_: Format | None,
    patterns: tuple[str, ...],
    ignore: tuple[str, ...],
    absent: tuple[str, ...],
    cpus: str | None,
    tids: str | None,
    vcpus: str | None,
    start: str | None,
    end: str | None,
    limit: int | None,
    quiet: bool,
) -> None:
    """Print or convert the events of a trace, in time order.

    Every event has its time (ts_ns), physical CPU, thread and name, and the fields
    that the trace's own format descriptions give it. In CSV and Parquet the fields
    that piscope itself reads are columns; all others are JSON in `fields`.

    What the trace lost is told on standard error.
    """
    from piscope.commands.event_stream import Request, write_events

    request = Request(
        patterns=patterns,
        ignore=ignore,
        absent=frozenset(absent),
        cpus=cpus,
        tids=tids,
        vcpu_ids=vcpus,
        start=start,
        end=end,
        limit=limit,
    )
    write_events(trace, output, format_, request, quiet=quiet)
