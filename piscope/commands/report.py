"""`piscope report`: an analysis with all its tables as files."""

from __future__ import annotations

from typing import cast

import click

from piscope.commands.options import ignore_option, posted_option, tsc_khz_option
from piscope.model.policy import POLICIES

__all__ = ("report",)


@click.command()
@click.argument("trace")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    help="The directory to write. It appears when it is complete; an older report"
    " there is replaced, anything else is left alone.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(tuple(POLICIES)),
    metavar="NAME",
    help="A policy to replay. Repeatable.  [default: preempt-only and suppress-on-put]",
)
@posted_option
@ignore_option
@tsc_khz_option
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def report(
    trace: str,
    output: str,
    policies: tuple[str, ...],
    posted: str,
    ignore: tuple[str, ...],
    tsc_khz: int | None,
    quiet: bool,
) -> None:
    """Write every table of an analysis as Parquet, with its summary as JSON.

    `piscope schema` documents the tables; DIR/manifest.json lists them.
    """
    from piscope import pipeline
    from piscope.allocator import keep_freed_memory
    from piscope.commands.opening import opened
    from piscope.commands.progress import Progress
    from piscope.commands.watched import WatchedSource
    from piscope.report.summarize import summarize
    from piscope.report_directory import write_report
    from piscope.sources.raw import Source

    keep_freed_memory()
    with opened(trace) as source, Progress(quiet=quiet) as progress:
        analysis = pipeline.analyze(
            cast(Source, WatchedSource(source, progress)),
            policies=tuple(dict.fromkeys(policies)) or pipeline.DEFAULT_POLICIES,
            posted=posted,
            ignore=ignore,
            tsc_khz=tsc_khz,
        )
    write_report(analysis, summarize(analysis), output)
