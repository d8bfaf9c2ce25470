"""`piscope check`: what a trace is, what it lost, and what it can answer."""

from __future__ import annotations

import json

import click

from piscope.commands.options import ignore_option

__all__ = ("check",)

EXIT_CANT_TELL = 3


@click.command()
@click.argument("trace")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON.")
@click.option(
    "--need",
    "needs",
    multiple=True,
    metavar="QUESTION",
    help="Exit with status 3 unless the trace can answer this question, at least in"
    " part. Repeatable.  [default: timeline]",
)
@ignore_option
def check(
    trace: str, as_json_: bool, needs: tuple[str, ...], ignore: tuple[str, ...]
) -> int:
    """Say what a trace is, what it lost, and which questions it can answer.

    For what it can't answer the record command that would have made it possible is
    shown.

    Exit status: 0 it can answer what is needed, 3 it can't, 2 it can't be read.
    """
    from piscope.commands.check_questions import judge
    from piscope.commands.check_report import Check, as_json, as_lines
    from piscope.commands.opening import opened
    from piscope.commands.progress import Progress
    from piscope.commands.survey import survey
    from piscope.errors import UsageError
    from piscope.events.catalog import PROBES, QUESTIONS

    unknown = [need for need in needs if need not in QUESTIONS]
    if unknown:
        raise UsageError(
            f"{unknown[0]!r} is not a question: expected one of {', '.join(QUESTIONS)}"
        )
    with opened(trace) as source, Progress() as progress:
        seen = survey(source, ignore=ignore, probes=PROBES, watch=progress.over)
        counts, losses = dict(source.counts), list(source.losses)
        answers = judge(source.info, counts, losses, seen)
        report = Check(source.info, counts, losses, seen, answers)
    if as_json_:
        click.echo(json.dumps(as_json(report), indent=2))
    else:
        for line in as_lines(report):
            click.echo(line)
    needed = needs or ("timeline",)
    can = all(a.verdict != "no" for a in answers if a.question in needed)
    return 0 if can else EXIT_CANT_TELL
