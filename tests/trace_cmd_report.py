"""What trace-cmd prints of a trace.dat, and how it is compared with what was read."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from piscope.sources.raw import EventFormat, Wanted
from piscope.sources.trace_dat import TraceDatSource, open_trace_dat

EVERY = Wanted({"*": None})


@dataclass
class Row:
    """One event as trace-cmd prints it."""

    ts: int
    cpu: int
    tid: int
    event: str
    fields: str = ""
    buffer: str = ""


@dataclass
class Ours:
    """All events of a source, by pCPU, with a way to the fields of each."""

    source: TraceDatSource
    rows: dict[int, list[Row]] = field(default_factory=lambda: defaultdict(list))
    values: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)


def read(path: Path | bytes, every: int = 1) -> Ours:
    """All events; decoded fields of every `every`-th of each pCPU."""
    source = open_trace_dat(path)
    ours = Ours(source)
    for chunk in source.chunks(EVERY):
        if len(source.info.buffers) == 1:
            assert (np.diff(chunk.seq[chunk.cpu == chunk.cpu[:1]]) > 0).all()
        place: dict[int, tuple[int, int]] = {}
        columns = (chunk.ts_ns, chunk.cpu, chunk.tid, chunk.event)
        for i, (ts, cpu, tid, event) in enumerate(
            zip(*(c.tolist() for c in columns), strict=True)
        ):
            own = ours.rows[cpu]
            if len(own) % every == 0:
                place[i] = (cpu, len(own))
            own.append(Row(ts, cpu, tid, source.events[event][1]))
        for payload in chunk.payload.values():
            for at, row in enumerate(payload.rows.tolist()):
                if row in place:
                    ours.values[place[row]] = {
                        name: column[at] if valid_at(payload.valid, name, at) else None
                        for name, column in payload.columns.items()
                    }
    return ours


def valid_at(valid: dict[str, Any], name: str, at: int) -> bool:
    return name not in valid or bool(valid[name][at])


LINE = (
    r"^\s*(?:(?P<buffer>[\w-]+): +)?.*?-(?P<tid>\d+) +\[(?P<cpu>\d+)\]%s"
    r" *(?P<ts>\d+(?:\.\d+)?): (?P<event>\S+): *(?P<fields>.*)$"
)
PLAIN = re.compile(LINE % "")
# Of a clock that is no time, trace-cmd 3.4 puts the flags right before the number.
FLAGGED = re.compile(LINE % r"(?:-0x\w| [\w.]{5})")
HEADINGS = ("cpus=", "CPU ", "version")


def parsed(lines: Iterable[str], line_shape: re.Pattern[str]) -> Iterator[Row]:
    for line in lines:
        match = line_shape.match(line)
        if match is None:
            assert line.startswith(HEADINGS) or "DROPPED" in line, line
            continue
        seconds, _, rest = match["ts"].partition(".")
        ts = int(seconds) * 10**9 + int(rest) if rest else int(seconds)
        yield Row(
            ts,
            int(match["cpu"]),
            int(match["tid"]),
            match["event"],
            match["fields"],
            match["buffer"] or "",
        )


def report(path: Path, *options: str) -> list[Row]:
    ran = subprocess.run(
        ["trace-cmd", "report", "-R", "-t", *options, "-i", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    )
    # "[EVENTS DROPPED]" comes without a newline of its own.
    text = re.sub(r"CPU:\d+ \[(\d+ )?EVENTS DROPPED\]\n?", "", ran.stdout)
    return list(parsed(text.splitlines(), PLAIN))


def by_cpu(rows: Iterable[Row]) -> dict[int, list[Row]]:
    out: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        out[row.cpu].append(row)
    return out


def keys(rows: Iterable[Row]) -> list[tuple[int, int, str]]:
    return [(r.ts, r.tid, r.event) for r in rows]


def number(text: str) -> set[int]:
    """What a number may mean: -R prints hex without 0x and decimals with zeros."""
    text = text.strip()
    found = set()
    for base in (0, 10, 16):
        try:
            found.add(int(text, base))
        except ValueError:
            continue
    return found


# trace-cmd -R shows a field as its print fmt casts it, cut to 8 bits: icr_low of
# kvm_apic_ipi, of which the same print fmt shows that bit 14 is set.
def cast_in_print_fmt(layout: EventFormat, name: str) -> bool:
    return re.search(rf"\((?:u8|u16)\) *REC->{name}\b", layout.print_fmt) is not None


def assert_fields(text: str, layout: EventFormat, values: dict[str, Any]) -> int:
    """Compare the printed fields of an event with ours; how many were compared."""
    names = [f.name for f in layout.fields]
    shape = r"\s+".join(rf"{re.escape(n)}=(.*?)" for n in sorted(names, key=text.find))
    match = re.match(shape + r"\s*$", text, re.DOTALL)
    if match is None:
        return 0
    compared = 0
    for name, shown in zip(sorted(names, key=text.find), match.groups(), strict=True):
        declared = layout.field(name)
        ours = values[name]
        assert declared is not None
        if cast_in_print_fmt(layout, name):
            continue
        if declared.kind == "int":
            assert ours is not None
            if not number(shown):
                continue  # an address, shown as a symbol
            bits = 8 * declared.size
            wrapped = {int(ours), int(ours) % (1 << bits)}
            assert number(shown) & wrapped, (layout.name, name, shown, ours)
        elif isinstance(ours, str):
            assert shown.strip() == ours.strip(), (layout.name, name)
        elif declared.kind == "chars":
            assert shown.strip() == ours.decode("utf-8", "replace").strip()
        else:
            continue
        compared += 1
    return compared
