"""What truly happened, beside the capture: posts with what they hit, windows, counters.

NAME.truth.json     the scenario, vCPUs, and PIN and PIW of each pCPU
NAME.posts.parquet  a row is one post under one replay ("captured" is the kernel's own)
NAME.windows.parquet  a row is one put, with the load that ended its window
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from piscope import __version__
from piscope.output import replacing
from piscope.synth.replica import Fate, Post
from piscope.synth.run import Batch, Simulation

__all__ = ("POSTS", "WINDOWS", "TruthWriter", "truth_paths")

_NAME = pa.dictionary(pa.int16(), pa.string())


def _field(name: str, kind: pa.DataType, meaning: str, null: str = "") -> pa.Field:
    meaning += f"; null: {null}" if null else ""
    return pa.field(name, kind, nullable=bool(null), metadata={"meaning": meaning})


POSTS = pa.schema(
    [
        _field("post", pa.int64(), "number of the post, from 0"),
        _field("ts_ns", pa.int64(), "when PIR was changed, on the trace clock"),
        _field("begun_ns", pa.int64(), "the call chain's first event", "no event"),
        _field("accept_ns", pa.int64(), "kvm_apicv_accept_irq", "no event"),
        _field("vm", pa.int32(), "the target's VM"),
        _field("vcpu_id", pa.int32(), "the target"),
        _field("tid", pa.int32(), "the target's thread"),
        _field("vector", pa.int16(), "interrupt vector"),
        _field("agent", _NAME, "vtd, ipiv or kvm"),
        _field("source", _NAME, "device, thread, IPI or timer"),
        _field("msi", pa.bool_(), "an MSI with one destination"),
        _field("replay", _NAME, "captured, or POLICY/POSTED"),
        _field("hit", _NAME, "outcomes.Hit", "the capture ends first"),
        _field("loaded", pa.bool_(), "the target was loaded", "the capture ends first"),
        _field("cpu", pa.int32(), "pCPU that was notified", "none"),
        _field("nv", pa.int16(), "vector of the notification", "none"),
        _field("taken_ns", pa.int64(), "when it was taken", "it was not"),
        _field("victim_tid", pa.int32(), "vCPU thread that took it instead", "none"),
        _field("coalesced", pa.bool_(), "its vector was latched already"),
    ]
)
WINDOWS = pa.schema(
    [
        _field("tid", pa.int32(), "the vCPU's thread"),
        _field("vm", pa.int32(), "its VM"),
        _field("vcpu_id", pa.int32(), "its number"),
        _field("reason", _NAME, "why it was put (tables.PutReason)"),
        _field("put_ns", pa.int64(), "when"),
        _field("put_cpu", pa.int32(), "where"),
        _field("load_ns", pa.int64(), "when it was loaded", "the capture ends first"),
        _field("load_cpu", pa.int32(), "where", "the capture ends first"),
    ]
)
_LEFT = Fate()


def truth_paths(capture: str | Path) -> dict[str, Path]:
    """The truth's files beside a capture: "truth", "posts" and "windows"."""
    path = Path(capture)
    return {
        "truth": path.with_name(f"{path.name}.truth.json"),
        "posts": path.with_name(f"{path.name}.posts.parquet"),
        "windows": path.with_name(f"{path.name}.windows.parquet"),
    }


class TruthWriter:
    """A context: files that appear when it ends well. `add` takes batches in order.

    hits  posts by (replay, outcome's label), so far
    """

    def __init__(self, capture: str | Path, simulation: Simulation) -> None:
        self.simulation = simulation
        self.hits: Counter[tuple[str, str]] = Counter()
        self.posts = 0
        self._of = {vcpu.name: vcpu for vcpu in simulation.vcpus}
        self._paths = truth_paths(capture)
        self._stack = ExitStack()

    def __enter__(self) -> TruthWriter:
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(replacing(path))
                for name, path in self._paths.items()
            }
            self._json = files["truth"]
            self._posts = stack.enter_context(pq.ParquetWriter(files["posts"], POSTS))
            self._windows = stack.enter_context(
                pq.ParquetWriter(files["windows"], WINDOWS)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, batch: Batch) -> None:
        """Write what a batch settled."""
        if batch.posts:
            self._posts.write_table(self._posts_table(batch.posts))
            self.posts += len(batch.posts)
        if batch.windows:
            rows = []
            for window in batch.windows:
                vcpu = self._of[window.vcpu]
                rows.append(
                    (
                        *(vcpu.tid, vcpu.vm, vcpu.vcpu_id, window.reason.label),
                        *(window.put_ns, window.put_cpu),
                        *(window.load_ns, window.load_cpu),
                    )
                )
            self._windows.write_table(_table(WINDOWS, rows))

    def _posts_table(self, posts: Iterable[Post]) -> pa.Table:
        rows = []
        for post in posts:
            vcpu = self._of[post.vcpu]
            first = (
                *(post.number, post.ts_ns, post.begun_ns, post.accept_ns),
                *(vcpu.vm, vcpu.vcpu_id, vcpu.tid, post.vector),
                *(post.agent, post.source, post.unicast_msi),
            )
            for replay in self.simulation.descriptors.names:
                fate = post.fates.get(replay, _LEFT)
                hit = None if fate.hit is None else fate.hit.label
                self.hits[replay, hit or "unknown"] += 1
                victim = None if fate.victim is None else self._of[fate.victim].tid
                rows.append(
                    (
                        *(*first, replay, hit, None if hit is None else fate.loaded),
                        *(fate.cpu, fate.vector or None, fate.taken_ns),
                        *(victim, fate.coalesced),
                    )
                )
        return _table(POSTS, rows)

    def finish(self, events: int) -> None:
        """Write what is known at the end; `events` were captured."""
        simulation, host = self.simulation, self.simulation.descriptors.captured.host
        hits: dict[str, dict[str, int]] = {}
        for (replay, hit), count in sorted(self.hits.items()):
            hits.setdefault(replay, {})[hit] = count
        document = {
            "piscope_version": __version__,
            "events": events,
            "posts": self.posts,
            "policy": simulation.scenario.policy,
            "start_ns": simulation.start_ns,
            "end_ns": simulation.recorder.now,
            "pin": {str(cpu): n for cpu, n in sorted(host.pin_of.items())},
            "piw": {str(cpu): n for cpu, n in sorted(host.piw_of.items())},
            "hits": hits,
            "vcpus": [asdict(vcpu) for vcpu in simulation.vcpus],
            "scenario": asdict(simulation.scenario),
        }
        self._json.write(json.dumps(document, indent=2).encode() + b"\n")


def _table(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table(
        [
            pa.array(column, field.type)
            if field.type != _NAME
            else pa.array(column, pa.string()).dictionary_encode().cast(_NAME)
            for column, field in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )
