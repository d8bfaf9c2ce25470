"""The account of one notification for people: 80 columns or more.

    which it is, and what became of it under each policy
    what decided it          the step that wrote the bits, the switches
    the descriptor           step by step, policies side by side
    the events               around it, with their places in the file
    rules                    with kernel function, patch or specification

Everything told is in `Account`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from piscope.explain.account import Account, Change, EventLine, Verdict
from piscope.explain.verdicts import MOST_ROWS
from piscope.explain.words import descriptor_fields, offset_text
from piscope.report.render_layout import (
    LEAST_COLUMNS,
    Grid,
    as_text,
    columns_within,
    facts,
    heading,
    note,
    remarks,
)
from piscope.report.render_markdown import as_markdown
from piscope.report.render_words import cpu_list, duration_text, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("account_as_markdown", "account_as_text")


def account_as_text(
    account: Account, *, width: int = LEAST_COLUMNS, color: bool = False
) -> str:
    """The whole account, ending with a newline; `width` is taken as 80 to 120."""
    columns = columns_within(width)
    return as_text(_sections(account, columns), columns=columns, color=color)


def account_as_markdown(account: Account) -> str:
    """The same as Markdown of 80 columns."""
    return as_markdown(_sections(account, LEAST_COLUMNS))


def _sections(account: Account, columns: int) -> Iterator[Iterator[RenderableType]]:
    yield _opening(account)
    yield _verdicts(account)
    yield _deciding(account)
    for pair in side_by_side(account):
        yield _steps(account, pair, columns)
    yield _events(account, columns)
    yield _rules(account)
    yield _notes(account)


def side_by_side(account: Account) -> list[list[str]]:
    """The policies, two at a time: the first with each other."""
    first, *others = (verdict.policy for verdict in account.verdicts)
    return [[first, other] for other in others] or [[first]]


def _opening(account: Account) -> Iterator[RenderableType]:
    yield heading(f"piscope {account.piscope_version}: {printable(account.trace)}")
    yield facts(opening_facts(account))


def _verdicts(account: Account) -> Iterator[RenderableType]:
    yield heading("What became of it")
    grid = Grid(("under", "the notification"), left=2)
    for verdict in account.verdicts:
        sure = "certain" if verdict.certain else "not certain"
        grid.add(verdict.policy, verdict.text, style="bold")
        for i, text in enumerate(verdict_remarks(verdict)):
            grid.add("" if i else f"({sure})", text)
    yield grid.render(LEAST_COLUMNS)


def opening_facts(account: Account) -> list[tuple[str, str]]:
    """Which notification it is, and how it was found."""
    it = account.notification
    when = f"{clock_text(it.ts_ns, account)}"
    if account.clock_ns:
        when += f" ({offset_text(it.after_ns)} from the trace's first event)"
    if it.until_ns is not None:
        later = duration_text(it.until_ns - it.ts_ns)
        when = f"between {when} and {later} later: probes only betray it"
    kernel = account.kernel_release or "not told"
    policy = account.captured_policy or "not known"
    post = post_text(account)
    if it.poster:
        post += f", on {it.poster}"
    return [
        ("post", post),
        *([("origin", it.origin_text)] if it.origin_text else []),
        ("when", when),
        ("target", f"{it.vcpu} (thread {it.comm or '?'}-{it.tid}), {it.doing}"),
        ("trace", f"{account.format}, kernel {kernel}, its own policy: {policy}"),
        ("asked", f"{account.found_by}; {account.question}"),
    ]


def post_text(account: Account) -> str:
    """What was posted, by whom, on what evidence."""
    it = account.notification
    vector = "a vector that is not known" if it.vector is None else f"{it.vector:#x}"
    if it.evidence == "probes":
        return f"{vector}, by hardware, seen by probes on pi_load and pi_put"
    if it.evidence == "given":
        return f"{vector}, by {'hardware' if it.agent == 'hardware' else 'KVM'}, given"
    if it.as_if:
        return f"{vector}, by KVM ({it.evidence}), replayed as a post by hardware"
    return f"{vector}, by KVM ({it.evidence})"


def clock_text(ts_ns: int, account: Account) -> str:
    """An instant as trace-cmd prints it, in seconds; a count where the clock counts."""
    if not account.clock_ns:
        return str(ts_ns)
    sign = "-" if ts_ns < 0 else ""
    return f"{sign}{abs(ts_ns) // 10**9}.{abs(ts_ns) % 10**9:09d}"


def verdict_remarks(verdict: Verdict) -> list[str]:
    """The row of the state table, and what the verdict rests on."""
    rows = "; or row ".join(f"{row.row}, {row.text}" for row in verdict.rows)
    words = [f"state table: row {rows}"] if rows else []
    if len(verdict.rows) > MOST_ROWS:
        spans = _spans([row.row for row in verdict.rows])
        words = [f"state table: any of rows {spans}"]
    if verdict.coalesced:
        words.append("0xf2 was latched there already: both are one IRQ")
    return words + verdict.doubts


def _spans(rows: Sequence[str]) -> str:
    """Rows of the state table as ranges; 6' is none of those."""
    text = cpu_list([int(row) for row in rows if row.isdigit()])
    return ",".join([text, *(row for row in rows if not row.isdigit())])


def _deciding(account: Account) -> Iterator[RenderableType]:
    if not account.deciding:
        return
    yield heading("What decided it")
    yield remarks(f"{line.policy}: {line.text}" for line in account.deciding)


def _from(account: Account) -> str:
    return f"time from the {'put' if account.notification.until_ns else 'post'}"


def _steps(
    account: Account, policies: Sequence[str], width: int
) -> Iterator[RenderableType]:
    yield heading(f"The descriptor, step by step, {_from(account)}")
    grid = Grid(("", "time", "step", *policies), left=3 + len(policies))
    first = account.steps[0]
    starts = [_full(first.policies[policy]) for policy in policies]
    grid.add("", "", "before", *starts)
    for step in account.steps:
        if step.skipped:
            grid.add("", "", f"{step.skipped} more", *("..." for _ in policies))
        cells = [change_text(step.policies[policy]) for policy in policies]
        style = "bold" if step.is_post else ""
        when = offset_text(step.offset_ns)
        grid.add(f"{step.number}", when, step.text, *cells, style=style)
    yield grid.render(width)
    yield note(
        "=: nothing changes. a|b: either, the trace does not tell. ?: not known."
        " NDST: the pCPU, of which the kernel writes the APIC id."
    )


def _full(change: Change) -> str:
    fields = descriptor_fields(change.before)
    return " ".join(f"{name}={value}" for name, value in fields.items())


def change_text(change: Change) -> str:
    """What a step changes, field by field, and what it sends: `SN 0->1; silent`."""
    before, after = descriptor_fields(change.before), descriptor_fields(change.after)
    words = [
        f"{name} {before[name]}->{after[name]}"
        for name in before
        if before[name] != after[name]
    ]
    gained = set(change.after.vectors) - set(change.before.vectors)
    if gained and "?" not in before["PIR"] + after["PIR"] and "|" not in after["PIR"]:
        words = [w for w in words if not w.startswith("PIR ")]
        words.append(f"PIR +{' +'.join(f'{v:#x}' for v in sorted(gained))}")
    text = " ".join(words) or "="
    if change.effects:
        text += f"; {', or '.join(change.effects)}"
    if change.contradiction:
        text += "; contradicts what came before"
    return text


def _events(account: Account, width: int) -> Iterator[RenderableType]:
    yield heading(f"The events around it, {_from(account)}")
    if not account.events:
        yield note("none were read")
        return
    unit = position_unit(account.events)
    where = unit.replace(" at ", "\n") or "where"
    grid = Grid(("time", where, "pCPU", "thread", "step", "event"), left=6)
    last = ""
    for line in account.events:
        if line.gap:
            grid.add("...", "", "", "", "", "")
        time, place, *others = event_cells(line, unit)
        grid.add(time, place if place != last else "", *others)
        last = place
    yield grid.render(width)
    yield note("...: not all events of that time are told (piscope events).")


def position_unit(events: Sequence[EventLine]) -> str:
    """The unit that all positions have: "line", "byte", "chunk at byte"; "": none."""
    units = {line.position.rpartition(" ")[0] for line in events}
    return units.pop() if len(units) == 1 else ""


def event_cells(line: EventLine, unit: str) -> tuple[str, str, str, str, str, str]:
    """One event in columns: time, where, pCPU, thread, steps, event with fields."""
    return (
        offset_text(line.offset_ns),
        line.position.removeprefix(unit).lstrip(),
        str(line.cpu),
        str(line.tid),
        ",".join(map(str, line.steps)),
        f"{line.event} {line.text}".rstrip(),
    )


def _rules(account: Account) -> Iterator[RenderableType]:
    yield heading("Rules, and where they come from (piscope model explain)")
    for rule in account.rules:
        yield note(rule.name, style="bold")
        texts = [rule.rule, rule.source]
        if rule.caveat:
            texts.append(f"not verified: {rule.caveat}")
        yield remarks(texts)


def _notes(account: Account) -> Iterator[RenderableType]:
    if account.notes:
        yield heading("Notes")
        yield remarks(account.notes)
