"""From the arguments of `piscope posts` to its report, list, file or coverage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

import click

from piscope import sliced_pipeline
from piscope.allocator import keep_freed_memory
from piscope.commands.check_questions import trace_cmd_command
from piscope.commands.narrowed import narrowed, parse_moments
from piscope.commands.opening import is_pipe
from piscope.commands.options import Form
from piscope.commands.printing import echo_report, echo_text
from piscope.commands.progress import Progress
from piscope.commands.selected import selected
from piscope.commands.watched import WatchedSource
from piscope.errors import PiscopeError, UnanswerableError, UsageError
from piscope.origins import Origin
from piscope.posts_pipeline import TracePosts, find_trace_posts
from piscope.report.posts_report import PostsReport
from piscope.report.render_layout import LEAST_COLUMNS, as_text
from piscope.report.render_markdown import as_markdown
from piscope.report.render_posts import Covered, coverage_sections, posts_sections
from piscope.report.render_words import printable
from piscope.sources.raw import Source

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("Request", "run_posts")

Sections = Callable[[int], "Iterable[Iterable[RenderableType]]"]

EXIT_NOT_ANALYZED = 2
EXIT_CANT_TELL = 3
_SUFFIXES = (".parquet", ".pq", ".csv", ".jsonl")
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
        if output is not None:
            known = _write(trace, request, output, quiet=quiet)
        elif listed:
            known = _list(trace, request, form, quiet=quiet)
        else:
            report = _reported(trace, request, quiet=quiet)
            known = report.known
            if form == "json":
                values.append(report.as_dict())
            else:
                if i:
                    click.echo()
                _print_report(report, form, width)
        if not known:
            status = EXIT_CANT_TELL
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
        return Covered(name, _reported(trace, request, quiet=quiet))
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


@contextmanager
def _posts(
    trace: str, request: Request, *, quiet: bool
) -> Iterator[tuple[TracePosts, Progress]]:
    """A trace's posts, and the line that shows how far they are gone through.

    A trace that is short, or a pipe, is one part.
    """
    whole_rows = None if is_pipe(trace) else sliced_pipeline.WHOLE_ROWS
    with (
        narrowed(
            trace, request.start, request.end, ignore=request.ignore, quiet=True
        ) as (source, (start_ns, end_ns)),
        Progress(quiet=quiet) as progress,
    ):
        posts = find_trace_posts(
            cast(Source, WatchedSource(source, progress)),
            selection=selected(request.vms, request.vcpus),
            origins=_origins(request),
            ignore=request.ignore,
            start_ns=start_ns,
            end_ns=end_ns,
            tsc_khz=request.tsc_khz,
            slice_rows=sliced_pipeline.SLICE_ROWS,
            whole_rows=whole_rows,
            progress=progress.begin,
        )
        yield posts, progress


def _reported(trace: str, request: Request, *, quiet: bool) -> PostsReport:
    with _posts(trace, request, quiet=quiet) as (posts, _):
        report = posts.report_of_all()
    report.narrowed |= selected(request.vms, request.vcpus).as_text()
    for name, text in (
        ("origin", request.origins),
        ("from", request.start),
        ("to", request.end),
    ):
        if text is not None:
            report.narrowed[name] = text
    return report


def _write(trace: str, request: Request, path: str, *, quiet: bool) -> int:
    """Write the posts to a file; gives of how many the origin is known."""
    from piscope.commands.posts_rows import rows_of, write_rows

    with _posts(trace, request, quiet=quiet) as (posts, _):
        write_rows(rows_of(posts), path)
        return posts.report().known


def _list(trace: str, request: Request, form: Form, *, quiet: bool) -> int:
    """Print the posts; gives of how many, of those gone through, the origin is known.

    With a limit no more are gone through than it takes to tell that some are known.
    """
    from piscope.commands.posts_rows import (
        echo_head,
        echo_json_lines,
        echo_rows,
        rows_of,
    )

    left, headed = request.limit, form == "json"
    with _posts(trace, request, quiet=quiet) as (posts, progress):
        for table in rows_of(posts):
            progress.clear()
            if not headed:
                echo_head()
                headed = True
            (echo_json_lines if form == "json" else echo_rows)(table.slice(0, left))
            if left is not None:
                left = max(left - len(table), 0)
                if not left and posts.report().known:
                    break
        return posts.report().known


def _print(form: Form, width: int | None, sections: Sections) -> None:
    if form == "md":
        echo_text(as_markdown(sections(LEAST_COLUMNS)))
        return

    def text_of(columns: int, color: bool) -> str:
        return as_text(sections(columns), columns=columns, color=color)

    echo_report(text_of, width)
