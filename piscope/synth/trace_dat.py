"""A capture written as a trace.dat of version 7, batch by batch.

A trace.dat holds one pCPU after the other, so sub-buffers wait in a temporary file, as
those of trace-cmd do, until all are made.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from piscope.synth.events import E
from piscope.synth.kernels import KernelEvent
from piscope.synth.records import Records, Tasks
from piscope.synth.sub_buffers import PAGE_BYTES, Packer
from piscope.synth.trace_dat_file import (
    CPUSTAT,
    UNAME,
    VERSION,
    Buffer,
    Recording,
    header_page,
    write,
)

__all__ = ("TraceDatWriter",)

_READ_BYTES = 1 << 20


class TraceDatWriter:
    """Takes records, and writes the file at the end.

    `folder` is where the sub-buffers wait.
    """

    def __init__(
        self,
        file: BinaryIO,
        folder: Path,
        kernel: Mapping[E, KernelEvent],
        *,
        release: str,
        clock: str,
        pcpus: int,
    ) -> None:
        self.file, self.kernel = file, kernel
        self.release, self.clock, self.pcpus = release, clock, pcpus
        self._spool: IO[bytes] = tempfile.TemporaryFile(  # noqa: SIM115
            dir=folder, prefix=".synth."
        )
        self._packer = Packer()
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._read: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()

    def lose(self, cpu: int, until_ns: int, count: int) -> None:
        """Events of a pCPU were lost before an instant."""
        self._packer.miss(cpu, until_ns, count)
        self._lost[cpu] += count

    def add(self, records: Sequence[Records]) -> None:
        """Records that are later than all before."""
        by_cpu: dict[int, list[Records]] = {}
        for one in records:
            for cpu in sorted(set(one.cpu.tolist())):
                by_cpu.setdefault(cpu, []).append(one[one.cpu == cpu])
        for cpu, own in sorted(by_cpu.items()):
            self._read[cpu] += sum(len(one.ts_ns) for one in own)
            pages = self._packer.pages(own, cpu)
            at = self._spool.tell()
            self._spool.write(pages)
            self._places.setdefault(cpu, []).append((at, len(pages)))

    def finish(self, tasks: Tasks) -> None:
        """Write the file."""
        systems: dict[str, list[bytes]] = {}
        for known in self.kernel.values():
            systems.setdefault(known.format.system, []).append(known.text)
        uname = f"Linux synth {self.release} x86_64\0".encode()
        stats = [(CPUSTAT, self._stat(cpu)) for cpu in sorted(self._read)]
        made = Recording(
            header_page=header_page(PAGE_BYTES),
            systems=tuple(systems.items()),
            comms=tasks.comms,
            clock=self.clock,
            cpu_count=self.pcpus,
            options=[(UNAME, uname), (VERSION, b"piscope synth\0"), *stats],
            buffers=[
                Buffer(
                    clock=self.clock,
                    cpus={cpu: self._pages(cpu) for cpu in sorted(self._places)},
                )
            ],
        )
        write(self.file, made)
        self.close()

    def close(self) -> None:
        """Give up what waits."""
        self._spool.close()

    def _pages(self, cpu: int) -> Iterator[bytes]:
        for at, size in self._places[cpu]:
            self._spool.seek(at)
            for done in range(0, size, _READ_BYTES):
                yield self._spool.read(min(_READ_BYTES, size - done))

    def _stat(self, cpu: int) -> bytes:
        lines = {
            "entries": 0,
            "overrun": self._lost[cpu],
            "commit overrun": 0,
            "bytes": 0,
            "dropped events": 0,
            "read events": self._read[cpu],
        }
        text = f"CPU: {cpu}\n" + "".join(f"{k}: {v}\n" for k, v in lines.items())
        return text.encode() + b"\0"
