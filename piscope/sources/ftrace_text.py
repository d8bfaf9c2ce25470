"""Text captures as a source: tracefs `trace`, `trace-cmd report`, `perf script`.

A text is what a tool chose to print. It names no systems, rounds times, may lack
columns and may have been cut by mail; a plugin may have left fields out. What can't
be known is marked (masks, losses, notes), never guessed.

To be read beside section 4 of the formats notes, kernel/trace/trace_output.c,
trace-cmd's trace-read.c and tools/perf/builtin-script.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from piscope.errors import TraceFormatError
from piscope.sources.raw import EventFormat, Loss, RawChunk, TraceInfo, Wanted
from piscope.sources.text_judge import EXPECTED, Judgement, judge
from piscope.sources.text_lines import Block, TextBytes
from piscope.sources.text_pass import TextPass
from piscope.sources.text_rows import EventNames, LineCounts

__all__ = ("TextSource", "open_text")


def open_text(source: str | Path | BinaryIO) -> TextSource:
    """Open a text capture: a path, or a binary file (a pipe may be read once).

    gzip, xz, bzip2 and zstd are undone on the fly, by content.

    Raises UsageError when it can't be opened, TraceFormatError when its first lines
    hold no event, UnsupportedTraceError where the lines are ambiguous.
    """
    return TextSource(source)


class TextSource:
    """One text capture; a `raw.Source`.

    Besides what every source gives, in the words of raw.py:

    - `seq` is the line number, from 1; `formats` is empty.
    - `cpu` is -1 throughout where the lines have no pCPU column, and `tid` is -1
      where they have no thread column; `info.notes` says so.
    - Rows are sorted by time within a block of lines; a line that is older than what
      was given before for its pCPU is left out and counted as a loss.
    - Systems are derived from well-known names (`kvm_*` is kvm); "" otherwise.
    - An event whose payload fits no known form keeps its row. Fields that can't be
      found are not valid, and a loss row of cause "unparsed-line" counts the lines.
    - kvm_exit has `isa` (1 VMX, 2 SVM, told by the reason's name). An SVM reason has
      no number here. kvm_msi_set_irq has `dst`, `vector`, `dm`, `logical`, `level`
      in place of address and data, kvm_ioapic_set_irq likewise in place of e;
      function has symbols (str) in `ip` and `parent_ip`.

    lines   after a pass: how many lines were what; their sum is the file's
    """

    def __init__(self, source: str | Path | BinaryIO) -> None:
        self._bytes = TextBytes(source)
        self._first: Block | None = None
        self._rest: Iterator[Block] | None = None
        self._names = EventNames()
        self.events: list[tuple[str, str]] = self._names.events
        self.formats: Mapping[str, EventFormat] = {}
        self.counts: dict[str, int] = {}
        self.losses: list[Loss] = []
        self.lines = LineCounts()
        name = self._bytes.name
        blocks = self._bytes.blocks()
        self._first = next(blocks, None)
        if self._first is None:
            raise TraceFormatError(f"is empty; {EXPECTED}", path=name)
        self._judged = judge(self._first.text, name)
        if self._bytes.rereadable:
            self.close()
        else:
            self._rest = blocks
        self.info: TraceInfo = _info(self._bytes, self._judged)

    def chunks(self, wanted: Wanted) -> Iterator[RawChunk]:
        """The events, some ten thousand lines at a time; see raw.Source.chunks."""
        one_pass = TextPass(self._judged, self.info, self._names, wanted)
        self.lines = one_pass.lines
        for block in self._blocks():
            chunk = one_pass.read(block)
            if chunk is not None:
                yield chunk
        one_pass.finish(self._bytes.losses)
        self.counts, self.losses = one_pass.counts(), one_pass.losses()

    def _blocks(self) -> Iterator[Block]:
        if self._bytes.rereadable:
            yield from self._bytes.blocks()
            return
        if self._first is not None and self._rest is not None:
            first, rest = self._first, self._rest
            self._first = self._rest = None
            yield first
            yield from rest
            return
        yield from self._bytes.blocks()  # refuses: a stream is read only once

    def close(self) -> None:
        """Release the file."""
        self._bytes.close()


def _info(source: TextBytes, judged: Judgement) -> TraceInfo:
    columns = "raw flags" if judged.has_flags else "no flags"
    if judged.flags_width:
        columns = f"{judged.flags_width} flag columns"
    packed = f", {source.wrapper}" if source.wrapper else ""
    ticks = judged.fraction_digits == 0
    info = TraceInfo(
        path=source.name or "-",
        format=f"{judged.writer} text ({columns}{packed})",
        kind="text",
        size_bytes=source.size_bytes,
        kernel_release=judged.kernel_release,
        ts_unit="cycles" if ticks else "ns",
        ts_resolution_ns=1000 if judged.fraction_digits == 6 else 1,
        host_cpus=judged.host_cpus,
        command=judged.command,
        events_flags=judged.has_flags,
        places="line",
    )
    notes = info.notes
    if ticks:
        notes.append(
            "times are bare numbers (trace clock x86-tsc, counter or uptime; the text"
            " does not say which), not nanoseconds"
        )
    if not judged.has_cpu:
        notes.append("the lines name no pCPU (cpu is -1): nothing per pCPU can be said")
    if not judged.has_tid:
        notes.append("the lines name no thread (tid is -1): vCPUs can't be told apart")
    if not judged.has_comm:
        notes.append("the lines name no tasks")
    if judged.shape in ("latency", "usecs"):
        notes.append("task names are cut to 8 characters")
    return info
