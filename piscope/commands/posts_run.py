"""From the arguments of `piscope posts` to its report, list, file or coverage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from piscope.allocator import keep_freed_memory
from piscope.commands.check_questions import trace_cmd_command
from piscope.commands.narrowed import narrowed, parse_moments
from piscope.commands.options import Form
from piscope.commands.printing import echo_report, echo_text
from piscope.commands.selected import selected
from piscope.errors import PiscopeError, UnanswerableError, UsageError
from piscope.origins import Origin
from piscope.output import replacing
from piscope.posts_pipeline import PostsFound, find_trace_posts
from piscope.report.posts_report import PostsReport
from piscope.report.render_layout import LEAST_COLUMNS, as_text
from piscope.report.render_markdown import as_markdown
from piscope.report.render_posts import Covered, coverage_sections, posts_sections
from piscope.report.render_words import printable

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import RenderableType

__all__ = ("Request", "run_posts")

Sections = Callable[[int], "Iterable[Iterable[RenderableType]]"]

EXIT_NOT_ANALYZED = 2
EXIT_CANT_TELL = 3
_SUFFIXES = (".parquet", ".pq", ".csv", ".jsonl")
_ROWS_AT_ONCE = 1 << 14
_KEPT = (
    "kvm",
    "sched:sched_switch",
    "sched:sched_waking",
    "irq",
)
# What a recording has at any rate; `kvm` stands for all of its events.


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for, as it was written.

    origins         words of origins.Origin with commas; None: all
    vms             a list such as `0-3,5`; None: all
    vcpus           labels, vcpu_ids, `tid:N`; empty: all
    ignore          patterns of events to treat as absent
    start, end      instants as moments.parse_moment reads them; None: open
    limit           how many posts to list; None: all
    tsc_khz         frequency of a raw x86-tsc clock; None: not given
    """

    origins: str | None = None
    vms: str | None = None
    vcpus: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    start: str | None = None
    end: str | None = None
    limit: int | None = None
    tsc_khz: int | None = None


def run_posts(
    traces: tuple[str, ...],
    request: Request,
    *,
    listed: bool = False,
    coverage: bool = False,
    output: str | None = None,
    form: Form = "terminal",
    width: int | None = None,
    quiet: bool = False,
) -> int:
    """Print what is asked for of each trace, and give the exit status.

    Raises UsageError for a request that makes no sense, and what a trace raises.
    """
    keep_freed_memory()
    _check(traces, request, listed, coverage, output, form)
    if coverage:
        covered = [_covered(trace, request, quiet=quiet) for trace in traces]
        if form == "json":
            reports = [c.report.as_dict() for c in covered if c.report is not None]
            click.echo(json.dumps(reports, indent=2, allow_nan=False))
        else:
            titled = form != "md"
            _print(form, width, lambda c: coverage_sections(covered, c, titled=titled))
        return 0 if all(c.readable for c in covered) else EXIT_NOT_ANALYZED
    status, values = 0, []
    for i, trace in enumerate(traces):
        found = _found(trace, request, quiet=quiet)
        report = found.report
        if not report.known:
            status = EXIT_CANT_TELL
        if output is not None:
            _write(found, output)
        elif listed:
            if form == "json":
                _write_json_lines(_rows(found, request.limit))
            else:
                _print_rows(_rows(found, request.limit))
        elif form == "json":
            values.append(report.as_dict())
        else:
            if i:
                click.echo()
            _print_report(report, form, width)
    if values:
        value = values if len(traces) > 1 else values[0]
        click.echo(json.dumps(value, indent=2, allow_nan=False))
    return status


def _print_report(report: PostsReport, form: Form, width: int | None) -> None:
    missing = [e for item in report.missing for e in item.events]
    lacking = [e for e in dict.fromkeys(missing) if not e.startswith(("kvm:", "irq:"))]
    lacking = [e for e in lacking if e not in _KEPT]
    command = trace_cmd_command([*_KEPT, *lacking]) if missing else []
    _print(form, width, lambda columns: posts_sections(report, columns, command))


def _check(
    traces: tuple[str, ...],
    request: Request,
    listed: bool,
    coverage: bool,
    output: str | None,
    form: Form,
) -> None:
    parse_moments(request.start, request.end)
    _origins(request)
    asked = [
        name
        for name, given in (
            ("--list", listed),
            ("--coverage", coverage),
            ("-o", output is not None),
        )
        if given
    ]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)}: give one of them")
    if output is not None:
        if len(traces) > 1:
            raise UsageError("-o takes one trace", path=output)
        if form != "terminal":
            raise UsageError("--format goes to standard output: give it without -o")
        if PurePath(output).suffix.lower() not in _SUFFIXES:
            raise UsageError(
                f"expected a name ending in {', '.join(_SUFFIXES)}", path=output
            )


def _origins(request: Request) -> frozenset[int] | None:
    if request.origins is None:
        return None
    known = {o.label: int(o) for o in Origin}
    for word in request.origins.split(","):
        if word not in known:
            raise UsageError(
                f"--origin {request.origins}: {word!r} is no origin, expected some of"
                f" {', '.join(known)}"
            )
    return frozenset(known[word] for word in request.origins.split(","))


def _covered(trace: str, request: Request, *, quiet: bool) -> Covered:
    name = _short(trace)
    try:
        return Covered(name, _found(trace, request, quiet=quiet).report)
    except (PiscopeError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        text = (text or str(error)).removeprefix(f"{trace}: ")
        readable = isinstance(error, UnanswerableError)
        return Covered(name, None, printable(text.partition("; ")[0]), readable)


def _short(trace: str) -> str:
    """The file's name and that of its folder: captures are often told apart by it."""
    path = PurePath(trace)
    name = path.name
    for suffix in (".gz", ".xz", ".zst", ".dat", ".trace", ".data", ".perf", ".txt"):
        name = name.removesuffix(suffix)
    folder = path.parent.name
    return f"{folder}/{name}" if folder not in ("", "sample_traces", "proof") else name


def _found(trace: str, request: Request, *, quiet: bool) -> PostsFound:
    selection = selected(request.vms, request.vcpus)
    with narrowed(
        trace, request.start, request.end, ignore=request.ignore, quiet=quiet
    ) as (source, (start_ns, end_ns)):
        found = find_trace_posts(
            source,
            selection=selection,
            origins=_origins(request),
            ignore=request.ignore,
            start_ns=start_ns,
            end_ns=end_ns,
            tsc_khz=request.tsc_khz,
        )
    found.report.narrowed |= selection.as_text()
    for name, text in (
        ("origin", request.origins),
        ("from", request.start),
        ("to", request.end),
    ):
        if text is not None:
            found.report.narrowed[name] = text
    return found


def _print(form: Form, width: int | None, sections: Sections) -> None:
    if form == "md":
        echo_text(as_markdown(sections(LEAST_COLUMNS)))
        return

    def text_of(columns: int, color: bool) -> str:
        return as_text(sections(columns), columns=columns, color=color)

    echo_report(text_of, width)


def _rows(found: PostsFound, limit: int | None) -> pa.Table:
    from piscope.arrow_tables import listed_posts

    which = found.which if limit is None else found.which[:limit]
    return listed_posts(found.events, found.timeline, which)


def _print_rows(table: pa.Table) -> None:
    click.echo(
        f"{'time':>17}  cpu  {'origin':<9} {'vector':>6}  {'target':<14}  poster;"
        " evidence"
    )
    for part in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in part.to_pylist():
            target = row["target"] or f"vcpu_id {row['vcpu_id']}, which?"
            if not row["certain"]:
                target += "?"
            irq = f" IRQ {row['host_irq']}" if row["host_irq"] is not None else ""
            who = f"{row['device']}{irq}" if row["device"] else row["thread"]
            click.echo(
                f"{_seconds(row['ts_ns']):>17}  {row['cpu']:>3}  {row['origin']:<9}"
                f" {row['vector']:>6}  {target:<14}  {printable(who)};"
                f" {row['evidence']}"
            )


def _seconds(ts_ns: int) -> str:
    return f"{ts_ns // 1_000_000_000}.{ts_ns % 1_000_000_000:09d}"


def _write_json_lines(table: pa.Table) -> None:
    for line in _json_lines(table):
        click.echo(line)


def _json_lines(table: pa.Table) -> Iterator[str]:
    for part in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in part.to_pylist():
            yield json.dumps(row, allow_nan=False)


def _write(found: PostsFound, path: str) -> None:
    table = _rows(found, None)
    suffix = PurePath(path).suffix.lower()
    with replacing(path) as file:
        if suffix == ".csv":
            import pyarrow.csv

            pyarrow.csv.write_csv(table, file)
        elif suffix == ".jsonl":
            for line in _json_lines(table):
                file.write(line.encode() + b"\n")
        else:
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, file, compression="zstd")
