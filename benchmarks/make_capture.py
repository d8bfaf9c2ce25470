"""Multiply a trace.dat capture to a size at which speed can be measured.

    python benchmarks/make_capture.py CAPTURE.dat OUT.dat --size 500M [--version 6]
        [--compressor zstd] [--cpus 8]

The sub-buffers of each pCPU are repeated as they are, each round later than the one
before by the length of the capture, so that the mix of events is the capture's and
time advances. With --cpus, they are dealt out to more pCPUs than the capture has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from writers.ring_buffer import PageShape  # noqa: E402
from writers.trace_dat import Buffer, Recording, header_page, write  # noqa: E402

from piscope.sources.event_format import PageLayout  # noqa: E402
from piscope.sources.raw import Wanted  # noqa: E402
from piscope.sources.ring_buffer import walk  # noqa: E402
from piscope.sources.trace_dat import TraceDatSource, open_trace_dat  # noqa: E402


class Capture:
    """The top buffer's sub-buffers of a capture, in memory."""

    def __init__(self, source: TraceDatSource) -> None:
        self.metadata = source.metadata
        self.layout: PageLayout = self.metadata.pages
        self.buffer = self.metadata.buffers[0]
        self.pages: dict[int, list[bytes]] = {}
        self.events = self.left_out = 0
        stamps = []
        for data in self.buffer.cpus:
            reader = source.page_reader(self.buffer, data)
            size = self.buffer.page_size
            kept: list[bytes] = []
            while True:
                batch = np.zeros(256 * size, np.uint8)
                read = reader.read(batch)
                count = len(read.available)
                if count == 0:
                    break
                entries, pages = walk(
                    batch[: count * size],
                    read.available,
                    self.layout,
                    size,
                    self.metadata.order,
                )
                usable = self._usable(batch[: count * size], read.available, size)
                kept += [batch[i * size : (i + 1) * size].tobytes() for i in usable]
                self.events += int(pages.events[usable].sum())
                self.left_out += count - len(usable)
                stamps += [int(entries.ts.min()), int(entries.ts.max())]
            self.pages[data.cpu] = kept
        self.first, self.length = min(stamps), max(stamps) - min(stamps) + 1000

    # The sub-buffers whose events all move when their stamp does: those with absolute
    # stamps inside have other events, which would stay where they are.
    def _usable(self, batch: np.ndarray, available: np.ndarray, size: int) -> list[int]:
        order, move = self.metadata.order, 1 << 40
        entries, pages = walk(batch, available, self.layout, size, order)
        moved = b"".join(
            self.later(batch[at : at + size].tobytes(), move)
            for at in range(0, len(batch), size)
        )
        later, _ = walk(
            np.frombuffer(moved, np.uint8), available, self.layout, size, order
        )
        usable = ~(pages.damaged | pages.cut) & (pages.events > 0)
        usable[entries.page[later.ts - entries.ts != move]] = False
        return [int(i) for i in np.flatnonzero(usable)]

    def later(self, page: bytes, ticks: int) -> bytes:
        """A sub-buffer with its time stamp moved on."""
        at, order = self.layout.ts_offset, self.metadata.order
        ts = int.from_bytes(page[at : at + 8], order) + ticks
        return page[:at] + ts.to_bytes(8, order) + page[at + 8 :]

    def rounds(self, cpu: int, count: int, share: int, shares: int) -> Iterator[bytes]:
        """`count` rounds of a pCPU's sub-buffers, every `shares`-th from `share`."""
        for number in range(count):
            for page in self.pages[cpu][share::shares]:
                yield self.later(page, number * self.length)


def parse_size(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    scale = units.get(text[-1:].upper(), 1)
    return int(float(text.rstrip("kKmMgG")) * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capture", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=parse_size, default=500 << 20)
    parser.add_argument("--version", type=int, choices=(6, 7), default=6)
    parser.add_argument(
        "--compressor", choices=("none", "zlib", "zstd"), default="none"
    )
    parser.add_argument("--cpus", type=int, default=0)
    options = parser.parse_args()

    source = open_trace_dat(options.capture)
    capture = Capture(source)
    one_round = sum(len(p) for pages in capture.pages.values() for p in pages)
    count = -(-options.size // one_round)
    own = sorted(capture.pages)
    shares = max(1, options.cpus // len(own))
    cpus = {
        share * len(own) + i: capture.rounds(cpu, count, share, shares)
        for share in range(shares)
        for i, cpu in enumerate(own)
    }
    layout, metadata = capture.layout, capture.metadata
    systems: dict[str, list[bytes]] = {}
    for system, text in metadata.formats:
        systems.setdefault(system, []).append(text)
    made = Recording(
        version=options.version,
        endian=metadata.order,
        page_size=capture.buffer.page_size,
        compressor=options.compressor,
        header_page=header_page(
            PageShape(long_size=layout.commit_size, page_size=layout.page_size)
        ),
        ftrace_formats=systems.pop("ftrace", []),
        systems=list(systems.items()),
        comms=metadata.comms,
        clock=capture.buffer.clock,
        cpu_count=len(cpus),
        buffers=[
            Buffer(
                clock=capture.buffer.clock or "local",
                page_size=capture.buffer.page_size,
                cpus=cpus,
            )
        ],
    )
    with options.out.open("w+b") as file:
        write(file, made)
    size = options.out.stat().st_size
    print(
        f"{options.out}: {size} bytes, {len(cpus)} pCPUs, {count} rounds, "
        f"{count * capture.events} events; {capture.left_out} sub-buffers of the "
        "capture left out"
    )
    check = open_trace_dat(options.out)
    rows = sum(len(chunk) for chunk in check.chunks(Wanted({}, others=True)))
    total = sum(check.counts.values())
    print(f"read back: {rows} rows, {total} events counted, {len(check.losses)} losses")


if __name__ == "__main__":
    main()
