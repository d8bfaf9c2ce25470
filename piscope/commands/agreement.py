"""`piscope agreement`: how well stock events tell what probes saw of loads and puts."""

from __future__ import annotations

import fnmatch
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from piscope.tables import Events
    from piscope.timeline.agreement import Agreement, How

__all__ = ("MOST_WRONG", "MOST_WRONG_REASONS", "Compared", "agreement", "as_lines")

EXIT_EXCEEDED = 1
EXIT_CANT_TELL = 3

# Shares of loads and puts, and of put reasons, that may be wrong without the timeline
# saying so. What remains are loads and puts by ioctls other than KVM_RUN: they leave
# no stock event.
MOST_WRONG = 0.01
MOST_WRONG_REASONS = 0.05

_SUFFIXES = (".gz", ".xz", ".zst", ".dat", ".data", ".txt", ".trace", ".ftrace")
_WIDTH = 80
_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}
_LEGEND = (
    "seen     loads and puts by the vCPUs' own threads, by probes",
    "missing  not inferred; extra: inferred, not seen; pCPU: on the wrong one",
    "puts     whose preempted and blocking flags were read; reason: inferred wrongly",
    "others   loads and puts by other threads: not compared",
    "3+6?     3 wrong ones, and 6 more where the timeline says that it is not sure",
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One capture: its agreement, or why it has none.

    puts, unsure_puts  inferred from stock events, and those marked uncertain
    instead            why there is nothing to compare, for people
    """

    name: str
    path: str
    agreement: Agreement | None = None
    puts: int = 0
    unsure_puts: int = 0
    instead: str = ""

    @property
    def within(self) -> bool | None:
        """Whether what is wrong stays below the limits; None: can't be told."""
        a = self.agreement
        if a is None:
            return None
        wrong = a.count("missing", "extra", "wrong-cpu", marked=False)
        reasons = a.count("wrong-flags", marked=False)
        return wrong <= MOST_WRONG * a.seen and reasons <= MOST_WRONG_REASONS * a.flags


@click.command()
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "md", "json"]),
    default="text",
    show_default=True,
    help="A table for people, a Markdown table, or JSON.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="PATTERN",
    help="Infer without these events as well; the probes never count. Repeatable.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Infer from these events alone, as if no others had been recorded."
    " Repeatable.",
)
@click.option(
    "--list", "list_", is_flag=True, help="Name each load and put that differs."
)
def agreement(
    traces: tuple[str, ...],
    form: str,
    ignore: tuple[str, ...],
    only: tuple[str, ...],
    list_: bool,
) -> int:
    """Compare the loads and puts of the timeline with probes that saw them.

    On captures with probes on vmx_vcpu_pi_load and vmx_vcpu_pi_put the timeline is
    built from the stock events alone, as for any other trace, and then compared with
    the probes: each load and put, in order, its pCPU, and why the vCPU was put.

    Exit status: 0 no capture has more than 1% wrong loads and puts, or 5% wrong put
    reasons, that the timeline is sure of; 1 one has; 3 no capture has probes.
    """
    names = _names(traces)
    compared = [
        _compare(name, path, ignore, only)
        for name, path in zip(names, traces, strict=True)
    ]
    if form == "json":
        click.echo(json.dumps([_as_dict(c, list_) for c in compared], indent=2))
    elif form == "md":
        _echo(_as_markdown(compared))
    else:
        _echo(as_lines(compared))
    if list_ and form != "json":
        _echo(_listed(compared))
    verdicts = [c.within for c in compared]
    if False in verdicts:
        return EXIT_EXCEEDED
    return 0 if True in verdicts else EXIT_CANT_TELL


def _compare(
    name: str, path: str, ignore: tuple[str, ...], only: tuple[str, ...]
) -> Compared:
    from piscope.commands.opening import opened
    from piscope.errors import UnanswerableError
    from piscope.events.catalog import analysis_fields
    from piscope.events.normalize import collect
    from piscope.sources.raw import Wanted
    from piscope.timeline import agreement as stage
    from piscope.timeline.build import build_timeline

    with opened(path) as source:
        events = collect(source, Wanted(analysis_fields()))
    absent = (*ignore, *_all_but(events, only))
    try:
        result = stage.agreement(events, absent)
        windows = build_timeline(stage.stock_events(events, absent)).windows
    except UnanswerableError as error:
        return Compared(name, path, instead=error.message)
    puts, unsure = len(windows), int((~windows.certain).sum())
    instead = f"no probes; {puts} puts inferred, {unsure} of them uncertain"
    return Compared(name, path, result, puts, unsure, "" if result else instead)


def _all_but(events: Events, only: tuple[str, ...]) -> tuple[str, ...]:
    """`system:name` of every event that matches none of the patterns."""
    if not only:
        return ()
    return tuple(
        f"{system}:{name}"
        for system, name in events.names
        if not any(
            fnmatch.fnmatchcase(f"{system}:{name}" if ":" in p else name, p)
            for p in only
        )
    )


def _names(paths: Sequence[str]) -> list[str]:
    """The files' names without what every one has, with a folder where needed."""
    stems = []
    for path in paths:
        stem = PurePath(path).name
        while stem.endswith(_SUFFIXES):
            stem = stem.rpartition(".")[0]
        stems.append(stem or path)
    return [
        f"{PurePath(path).parent.name}/{stem}" if stems.count(stem) > 1 else stem
        for path, stem in zip(paths, stems, strict=True)
    ]


def _echo(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


_HEADINGS = ("capture", "seen", "missing", "extra", "pCPU", "puts", "reason", "others")
_COLUMNS: tuple[tuple[How, ...], ...] = (("missing",), ("extra",), ("wrong-cpu",))


def _cells(c: Compared) -> list[str]:
    a = c.agreement
    if a is None:
        return []

    def cell(*hows: How) -> str:
        sure, marked = (a.count(*hows, marked=m) for m in (False, True))
        return f"{sure}+{marked}?" if marked else f"{sure}"

    return [
        f"{a.seen}",
        *(cell(*hows) for hows in _COLUMNS),
        f"{a.flags or '-'}",
        cell("wrong-flags") if a.flags else "-",
        f"{a.other_threads}",
    ]


def as_lines(compared: Sequence[Compared]) -> list[str]:
    """The table for people, 80 columns wide; a long name has a line of its own."""
    rows = [(c.name, _cells(c), c.instead) for c in compared]
    widths = [
        max(len(heading), *(len(cells[i]) for _, cells, _ in rows if cells), 0)
        for i, heading in enumerate(_HEADINGS[1:])
    ]
    room = _WIDTH - sum(widths) - len(widths)
    first = min(room, max(len(name) for name, _, _ in rows))

    def line(name: str, cells: Sequence[str]) -> str:
        aligned = (f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
        return f"{name:<{first}} {' '.join(aligned)}"

    lines = [line(_HEADINGS[0], _HEADINGS[1:])]
    for name, cells, instead in rows:
        if not cells and first + 1 + len(instead) > _WIDTH:
            lines += [name, *textwrap.wrap(instead, _WIDTH, **_INDENTED)]
        elif len(name) > first:
            lines += [name, line("", cells)]
        else:
            lines.append(line(name, cells) if cells else f"{name:<{first}} {instead}")
    return [*lines, "", *_LEGEND]


def _as_markdown(compared: Sequence[Compared]) -> list[str]:
    lines = [
        f"| {' | '.join(_HEADINGS)} |",
        f"| --- |{' ---: |' * (len(_HEADINGS) - 1)}",
    ]
    for c in compared:
        cells = _cells(c) or [c.instead, *[""] * (len(_HEADINGS) - 2)]
        lines.append(f"| `{c.name}` | {' | '.join(cells)} |")
    return lines


def _listed(compared: Sequence[Compared]) -> list[str]:
    lines = [""]
    for c in compared:
        for d in c.agreement.differences if c.agreement else ():
            seconds = f"{d.ts_ns // 10**9}.{d.ts_ns % 10**9:09}"
            how = f"{d.how} (uncertain)" if d.marked else d.how
            lines.append(f"{c.name}: {seconds} {d.vcpu} {d.what} pCPU {d.cpu}: {how}")
    return lines if len(lines) > 1 else []


def _as_dict(c: Compared, with_differences: bool) -> dict[str, Any]:
    from dataclasses import asdict

    result: dict[str, Any] = {
        "path": c.path,
        "puts": c.puts,
        "unsure_puts": c.unsure_puts,
        "within_limits": c.within,
        "not_compared": c.instead or None,
        "agreement": None,
    }
    a = c.agreement
    if a is not None:
        hows: tuple[How, ...] = ("missing", "extra", "wrong-cpu", "wrong-flags")
        result["agreement"] = {
            "seen": a.seen,
            "other_threads": a.other_threads,
            "agree": a.agree,
            "flags": a.flags,
        } | {
            how.replace("-", "_"): {
                "sure": a.count(how, marked=False),
                "uncertain": a.count(how, marked=True),
            }
            for how in hows
        }
        if with_differences:
            result["agreement"]["differences"] = [asdict(d) for d in a.differences]
    return result
