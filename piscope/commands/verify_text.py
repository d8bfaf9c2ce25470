"""The account of a verification for people: 80 columns or more, the verdict first.

    verdict          what was found, and whether it holds
    what was read    probes, vCPUs, APIC ids
    what agrees      transitions by kind, with what each needed
    the rules        what the model says of each kind, and where that is from
    policies         how many transitions each known policy does not allow
    disagreements    by group, then one by one with the events around
    counters         PIN and PIW as counted, beside what the trace predicts
    remarks          what else should be known

Every number is one of `Account`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from piscope import __version__
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
from piscope.report.render_words import printable
from piscope.verify.account import Account, CounterLine, Disagreement, Event, Reading
from piscope.verify.verdict import PLATFORM_WORDS, PROBES_WANTED

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ("account_as_text",)


def account_as_text(
    account: Account, width: int = LEAST_COLUMNS, *, color: bool = False
) -> str:
    """The whole account, ending with a newline; `width` is taken as 80 to 120."""
    columns = columns_within(width)
    sections = (
        _opening(account),
        _read(account),
        _agreement(account, columns),
        _rules(account),
        _policies(account, columns),
        _groups(account),
        _listed(account),
        _counters(account, columns),
        _remarks(account),
    )
    return as_text(sections, columns=columns, color=color)


def _opening(account: Account) -> Iterator[RenderableType]:
    yield heading(f"piscope {__version__} verify: {printable(account.trace)}")
    asked = (
        "which policy is it?" if account.asked is None else f"is it {account.asked}?"
    )
    yield facts([("question", asked)])
    yield facts([("verdict", account.verdict)], style="bold")


def _read(account: Account) -> Iterator[RenderableType]:
    if not account.format:
        return  # nothing was
    yield heading("What was read")
    rows = [
        ("trace", f"{account.format}, kernel {account.kernel_release or 'unknown'}")
    ]
    probes = [
        own if own.rpartition(":")[2] == read_as else f"{own} (as {read_as})"
        for own, read_as in account.probes.items()
    ]
    rows.append(("probes", ", ".join(probes) or "none that piscope recognizes"))
    rows.append(
        (
            "hits",
            f"{account.hits:,} of {account.vcpus} vCPUs, {account.readings:,} with a"
            f" control word: {account.transitions:,} transitions",
        )
    )
    if account.apic_ids:
        ids = ", ".join(
            f"pCPU {c} {n:#x}" for c, n in list(account.apic_ids.items())[:16]
        )
        more = len(account.apic_ids) - 16
        rows.append(
            (
                "NDST",
                f"{account.apic_form}: {ids}" + (f" and {more} more" * (more > 0)),
            )
        )
    yield facts(rows)
    if not account.transitions:
        yield note("Probes that would tell (kprobe_events):")
        yield remarks(PROBES_WANTED)


def _agreement(account: Account, width: int) -> Iterator[RenderableType]:
    if not account.kinds:
        return
    platform = PLATFORM_WORDS[account.platform or "needs-pi-wakeup"]
    yield heading(f"What agrees with {account.policy}, where {platform}")
    yield note(f"{account.policy}: {account.policy_title}.")
    grid = Grid(
        [
            "transition",
            "com-\npared",
            "agree",
            "exactly",
            "post by\nKVM",
            "post by\nhardware",
            "between\nreads",
        ]
    )
    for k in account.kinds:
        numbers = (k.exactly, k.by_kvm, k.by_hardware, k.between_reads)
        grid.add(
            k.kind,
            f"{k.transitions:,}",
            f"{k.agree:,}",
            *(f"{n:,}" if n else "" for n in numbers),
            style="" if k.agree == k.transitions else "bold",
        )
    grid.add(
        "all",
        f"{account.transitions:,}",
        f"{account.transitions - account.disagreements:,}",
        *(
            f"{sum(values):,}"
            for values in zip(
                *(
                    (k.exactly, k.by_kvm, k.by_hardware, k.between_reads)
                    for k in account.kinds
                ),
                strict=True,
            )
        ),
    )
    yield grid.render(width)
    yield note(
        "Exactly: no post was needed. Else the least that explains what was read: a"
        " post by KVM that the trace holds (or may lack), one by hardware that leaves"
        " no event, or one between a probe's reads of ON and of PIR."
    )


def _rules(account: Account) -> Iterator[RenderableType]:
    if not account.kinds:
        return
    yield heading("The rules, for the commonest case of each")
    yield remarks(f"{k.kind}: {k.rule}. {k.source}" for k in account.kinds)


def _policies(account: Account, width: int) -> Iterator[RenderableType]:
    if not account.candidates:
        return
    yield heading("Transitions that each known policy does not allow")
    platforms = list(dict.fromkeys(c.platform for c in account.candidates))
    grid = Grid(["policy", *(p.replace("-", "-\n", 1) for p in platforms)])
    for policy in dict.fromkeys(c.policy for c in account.candidates):
        wrong = {
            c.platform: c.disagreements
            for c in account.candidates
            if c.policy == policy
        }
        grid.add(policy, *(f"{wrong[p]:,}" for p in platforms))
    yield grid.render(width)
    if account.separating:
        yield note("What would tell those apart that fit equally:")
        yield remarks(account.separating)


def _groups(account: Account) -> Iterator[RenderableType]:
    if not account.groups:
        return
    yield heading(f"Disagreements: {account.disagreements:,}")
    yield remarks(
        f"{g.transitions:,} x {g.kind}: "
        + "; ".join(
            f"{f} is {g.observed[f]}, expected {' or '.join(g.expected[f])}"
            for f in g.fields
        )
        + f" ({_seconds(g.first_ns)} to {_seconds(g.last_ns)})"
        for g in account.groups
    )


def _listed(account: Account) -> Iterator[RenderableType]:
    from rich.text import Text

    for i, d in enumerate(account.listed):
        if i:
            yield Text()
        where = f"{printable(d.vcpu)}, pCPU {d.after.cpu}"
        yield heading(f"{_seconds(d.after.ts_ns)} {where}: {d.kind}")
        yield facts(
            [
                ("before", _reading(d.before)),
                ("read", _reading(d.after)),
                ("expected", _expected(d)),
                ("differs", ", ".join(d.fields)),
                ("rule", f"{d.rule}. {d.source}"),
            ]
        )
        yield _events(d.events)


def _reading(r: Reading) -> str:
    pir = "PIR not read" if r.pir is None else _vectors(r.pir)
    return (
        f"ON={r.on:d} SN={r.sn:d} NV={r.nv:#x} NDST={r.ndst_text} {pir}"
        f" at {_seconds(r.ts_ns)}, {r.point}"
    )


def _expected(d: Disagreement) -> str:
    return "; ".join(f"{f}: {' or '.join(v)}" for f, v in d.expected.items())


def _events(events: Sequence[Event]) -> RenderableType:
    """Events one under the other; B and * mark the two readings."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(width=_INDENT + 1, no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for e in events:
        thread = f"{e.tid}" if e.comm is None else f"{e.comm}-{e.tid}"
        table.add_row(
            Text({"before": "B", "after": "*"}.get(e.mark or "", "")),
            Text(_seconds(e.ts_ns)),
            Text(f"[{e.cpu:03}]"),
            Text(printable(f"{thread} {e.name}: {_fields(e)}")),
        )
    return table


_INDENT = 2


def _fields(e: Event) -> str:
    """The event's fields; of a probe the descriptor as one reads it."""
    fields = {name: v for name, v in e.fields.items() if not name.startswith("__")}
    words = []
    ctl = fields.pop("ctl", None)
    pir = [fields.pop(f"pir{i}", None) for i in range(4)]
    if isinstance(ctl, int):
        words += [f"ON={ctl & 1}", f"SN={ctl >> 1 & 1}"]
        words += [f"NV={ctl >> 16 & 0xFF:#x}", f"NDST={ctl >> 32:#x}"]
        whole = sum(w << 64 * i for i, w in enumerate(pir) if isinstance(w, int))
        words.append(_vectors([v for v in range(256) if whole >> v & 1]))
    others = (
        f"{name}={f'{v:#x}' if name in _HEX else v}" for name, v in fields.items()
    )
    return " ".join((*others, *words))


def _vectors(pir: Sequence[int]) -> str:
    return "PIR={" + " ".join(f"{v:#x}" for v in pir) + "}"


_HEX = ("blocking", "vector", "vec")


def _counters(account: Account, width: int) -> Iterator[RenderableType]:
    if not account.counters:
        return
    yield heading("PIN and PIW, as counted and as the trace predicts")
    grid = Grid(["counter", "pCPU", "counted", "predicted", "seen by\nprobe", "within"])
    for c in account.counters:
        grid.add(
            c.counter,
            f"{c.cpu}",
            f"{c.counted:,}",
            _predicted(c),
            "" if c.seen is None else f"{c.seen:,}",
            {True: "yes", False: "NO", None: "can't tell"}[c.within],
        )
    yield grid.render(width)


def _predicted(c: CounterLine) -> str:
    if c.most is None:
        return f"at least {c.least:,}"
    return f"{c.least:,}" if c.least == c.most else f"{c.least:,} to {c.most:,}"


def _remarks(account: Account) -> Iterator[RenderableType]:
    if account.remarks:
        yield heading("Remarks")
        yield remarks(account.remarks)


def _seconds(ts_ns: int) -> str:
    return f"{ts_ns // 10**9}.{ts_ns % 10**9:09}"
