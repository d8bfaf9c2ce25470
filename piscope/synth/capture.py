"""A scenario as a capture, and its truth beside it.

machine -> rows -> records -> (lost stretches) -> trace.dat | perf.data
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from piscope.output import replacing
from piscope.synth.events import PROBES, SYSCALLS, E
from piscope.synth.kernels import KernelEvent, kernel_events, without_arguments
from piscope.synth.perf_data import PerfDataWriter
from piscope.synth.records import Lost, Records, Tasks, records_of, without
from piscope.synth.run import Simulation
from piscope.synth.scenario import Capture, Scenario
from piscope.synth.trace_dat import TraceDatWriter
from piscope.synth.truth import TruthWriter

__all__ = ("Made", "recorded_events", "synthesize")


@dataclass(slots=True)
class Made:
    """A capture that was made.

    events    in the file
    lost      events of lost stretches
    posts     in the truth
    pin, piw  that the captured host counted, by pCPU
    hits      posts by (replay, outcome's label)
    """

    path: Path
    events: int
    lost: int
    posts: int
    duration_ns: int
    pin: dict[int, int]
    piw: dict[int, int]
    hits: dict[tuple[str, str], int]


class _Writer(Protocol):
    def add(self, records: list[Records]) -> None: ...
    def lose(self, cpu: int, until_ns: int, count: int) -> None: ...
    def finish(self, tasks: Tasks) -> None: ...
    def close(self) -> None: ...


def synthesize(
    scenario: Scenario,
    path: str | Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Made:
    """Run a scenario and write capture and truth.

    `progress` is told how many events there are, up to which instant.

    Raises UsageError where a file can't be written.
    """
    path = Path(path)
    capture = scenario.capture
    kernel = recorded_events(capture)
    simulation = Simulation(scenario)
    tasks = Tasks(simulation.recorder.comms, simulation.recorder.strings)
    stretches = [
        Lost(
            lose.cpu,
            simulation.start_ns + int(lose.start_ms * 1e6),
            simulation.start_ns + int(lose.end_ms * 1e6),
        )
        for lose in capture.lose
    ]
    events = lost = 0
    with replacing(path) as file, TruthWriter(path, simulation) as truth:
        writer = _writer(file, path, scenario, simulation, kernel)
        try:
            for batch in simulation.batches():
                kept = []
                for records, counts in without(
                    records_of(batch.rows, kernel, tasks), stretches
                ):
                    for stretch, count in zip(stretches, counts.tolist(), strict=True):
                        writer.lose(stretch.cpu, stretch.end_ns, count)
                        lost += count
                    kept.append(records)
                    events += len(records.ts_ns)
                writer.add(kept)
                truth.add(batch)
                progress(events, batch.until_ns)
            writer.finish(tasks)
            truth.finish(events)
        finally:
            writer.close()
    host = simulation.descriptors.captured.host
    return Made(
        path,
        events,
        lost,
        truth.posts,
        simulation.recorder.now - simulation.start_ns,
        dict(sorted(host.pin_of.items())),
        dict(sorted(host.piw_of.items())),
        dict(truth.hits),
    )


def recorded_events(capture: Capture) -> dict[E, KernelEvent]:
    """The events that a capture has, as its kernel describes them."""
    kernel = kernel_events(capture.release)
    for event in PROBES:
        if capture.probes == "none":
            del kernel[event]
        elif capture.probes == "bare":
            kernel[event] = without_arguments(kernel[event])
    if not capture.syscalls:
        for event in SYSCALLS:
            del kernel[event]
    for pattern in capture.drop:
        for name in fnmatch.filter(E.__members__, pattern):
            kernel.pop(E[name], None)
    return kernel


def _writer(
    file: BinaryIO,
    path: Path,
    scenario: Scenario,
    simulation: Simulation,
    kernel: dict[E, KernelEvent],
) -> _Writer:
    capture, pcpus = scenario.capture, scenario.host.pcpus
    form = capture.format
    if not form:
        form = "perf.data" if path.name.endswith("perf.data") else "trace.dat"
    if form == "perf.data":
        named = simulation.recorder
        perf = PerfDataWriter(
            file, kernel, named.tgids, release=capture.release, pcpus=pcpus
        )
        perf.name(named.comms)
        return perf
    return TraceDatWriter(
        file,
        path.parent,
        kernel,
        release=capture.release,
        clock=capture.clock,
        pcpus=pcpus,
    )
