"""`piscope posts` as text, and its coverage of several traces as one table."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from piscope.origins import Origin
from piscope.report.posts_report import PostsReport, evidence_text, shares
from piscope.report.render_layout import Grid, facts, heading, note, remarks
from piscope.report.render_words import duration_text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("Covered", "coverage_sections", "posts_sections")

_MOST = 12
_MOST_POSTERS = 4


def posts_sections(
    report: PostsReport, width: int, command: Sequence[str]
) -> Iterator[Iterator[RenderableType]]:
    """The report; `command` records what the trace lacks, empty: it lacks nothing."""
    yield _head(report)
    if report.posts:
        yield _origins(report, width)
        yield _posters(report)
        yield _by(report, width, "vcpus", "To which vCPU", "vCPU")
        yield _by(report, width, "vectors", "With which vector", "vector")
    yield _missing(report, command)


def _head(report: PostsReport) -> Iterator[RenderableType]:
    yield heading(f"Who posted: {report.path}")
    rows = [
        ("posts", _posts(report)),
        ("origin", _known(report)),
        ("target", _targets(report)),
    ]
    if report.unseen is not None:
        rows.append(
            (
                "unseen",
                f"{report.unseen:,} windows into which hardware posted (VT-d, IPI"
                " virtualization): it leaves no event, probes betray it",
            )
        )
    else:
        rows.append(
            ("unseen", "posts by hardware (VT-d, IPI virtualization) leave no event")
        )
    if report.narrowed:
        given = ", ".join(f"--{k} {v}" for k, v in report.narrowed.items())
        rows.append(("narrowed", given))
    yield facts(rows)


def _posts(report: PostsReport) -> str:
    per_second = ""
    if report.duration_ns and report.posts:
        rate = report.posts * 1e9 / report.duration_ns
        per_second = f", {rate:,.0f} a second"
    kept = f"; {report.not_posted:,} into IRR (APICv off)" if report.not_posted else ""
    return f"{report.posts:,} in {duration_text(report.duration_ns)}{per_second}{kept}"


def _known(report: PostsReport) -> str:
    if not report.posts:
        return "no post is visible"
    text = f"known of {report.known:,} ({shares(report.known, report.posts)})"
    if report.inferred:
        text += f", {report.inferred:,} of them inferred"
    return text


def _targets(report: PostsReport) -> str:
    if not report.posts:
        return "-"
    text = f"known of {report.targets:,} ({shares(report.targets, report.posts)})"
    if report.learned:
        text += f", {report.learned:,} of them inferred or learned from others"
    return text


def _origins(report: PostsReport, width: int) -> Iterator[RenderableType]:
    yield heading("By origin")
    grid = Grid(("origin", "what it is", "posts", "share", "hardware\ncould post"), 2)
    for line in report.origins:
        grid.add(
            line.origin,
            line.meaning,
            f"{line.posts:,}",
            shares(line.posts, report.posts),
            f"{line.postable:,}",
        )
    yield grid.render(width)


def _posters(report: PostsReport) -> Iterator[RenderableType]:
    yield heading("What tells it, and who it was")
    rows = []
    for line in report.origins:
        label = line.origin
        for text in evidence_text(line.evidence.items()):
            rows.append((label, text))
            label = ""
        names = [f"{name} {n:,}" for name, n in line.posters.items()]
        more = len(names) - _MOST_POSTERS
        rest = f", and {more} more" if more > 0 else ""
        rows.append(("", f"by {', '.join(names[:_MOST_POSTERS])}{rest}"))
    yield facts(rows)


def _by(
    report: PostsReport, width: int, what: str, title: str, column: str
) -> Iterator[RenderableType]:
    yield heading(title)
    totals: dict[str | int, int] = {}
    for line in report.origins:
        for key, number in getattr(line, what).items():
            totals[key] = totals.get(key, 0) + number
    most = sorted(totals, key=lambda key: -totals[key])[:_MOST]
    shown = [key for key in totals if key in most]
    shown.sort(key=lambda key: (isinstance(key, str), key))
    grid = Grid((column, *(line.origin for line in report.origins), "all"))
    for key in shown:
        numbers = (getattr(line, what).get(key, 0) for line in report.origins)
        name = f"{key} (0x{key:02x})" if isinstance(key, int) else key
        name = "not told" if key == "?" else name
        grid.add(name, *(f"{n:,}" if n else "" for n in numbers), f"{totals[key]:,}")
    yield grid.render(width)
    if len(totals) > len(shown):
        yield note(f"and {len(totals) - len(shown):,} more (--json)")


def _missing(report: PostsReport, command: Sequence[str]) -> Iterator[RenderableType]:
    if not report.missing:
        return
    yield heading("What this trace lacks")
    yield remarks(
        f"{' and '.join(item.events)} would tell {item.tells}"
        + (f" ({item.posts:,} posts)" if item.posts else "")
        for item in report.missing
    )
    if command:
        yield note("Record, on the host, with what is there and")
        yield note(shlex.join(command))


@dataclass(frozen=True, slots=True)
class Covered:
    """One trace's row of the coverage: its report, or why it has none.

    `readable` is False where the trace could not even be read.
    """

    name: str
    report: PostsReport | None
    instead: str = ""
    readable: bool = True


def coverage_sections(
    covered: Sequence[Covered], width: int, *, titled: bool = True
) -> Iterator[Iterator[RenderableType]]:
    """One row a trace: how many posts have a known origin and target, by origin.

    Without a title it is a piece of another document.
    """
    if titled:
        yield iter([heading("Whose posts are known")])
    yield _coverage(covered, width)


def _coverage(covered: Sequence[Covered], width: int) -> Iterator[RenderableType]:
    origins = [o.label for o in Origin if o != Origin.UNKNOWN]
    reports = [c.report for c in covered if c.report is not None]
    present = {line.origin for r in reports for line in r.origins}
    origins = [o for o in origins if o in present]
    grid = Grid(
        ("capture", "posts", "known", "inferred", *origins, "unknown", "target\nknown")
    )
    without = []
    for one in covered:
        report = one.report
        if report is None or not report.posts:
            why = one.instead or "no post is visible"
            without.append(f"{one.name}: {why}")
            continue
        by = {line.origin: line.posts for line in report.origins}
        grid.add(
            one.name,
            f"{report.posts:,}",
            shares(report.known, report.posts),
            shares(report.inferred, report.posts) if report.inferred else "",
            *(f"{by[o]:,}" if o in by else "" for o in origins),
            f"{by['unknown']:,}" if "unknown" in by else "",
            shares(report.targets, report.posts),
        )
    posts = sum(r.posts for r in reports)
    if len(grid.rows) > 1:
        grid.add(
            "all",
            f"{posts:,}",
            shares(sum(r.known for r in reports), posts),
            shares(sum(r.inferred for r in reports), posts),
            *(f"{_of(reports, o):,}" for o in origins),
            f"{_of(reports, 'unknown'):,}",
            shares(sum(r.targets for r in reports), posts),
        )
    yield grid.render(width)
    if without:
        yield note("Without a row:")
        yield remarks(without)


def _of(reports: Sequence[PostsReport], origin: str) -> int:
    return sum(
        line.posts for r in reports for line in r.origins if line.origin == origin
    )
