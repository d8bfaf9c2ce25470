"""Origins and targets held against captures of a simulated host, which knows them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from piscope.cli import run
from piscope.origins import Origin
from piscope.posts_pipeline import find_trace_posts
from piscope.sources.detect import open_trace


def word_of(source: str) -> str:
    """The origin of what the truth names: `vhost-1000`, `vfio-msix[0](...)`, `ipi`."""
    return source.partition("-")[0]


@pytest.mark.parametrize("scenario", ["remapped", "mixed"])
def test_origins_and_targets_are_the_true_ones(scenario: str, tmp_path: Path) -> None:
    trace = tmp_path / f"{scenario}.dat"
    arguments = ["synth", scenario, "--events", "5000", "-q", "-o", str(trace)]
    assert run(arguments) == 0
    truth = {
        (row["accept_ns"], row["vector"]): (word_of(row["source"]), row["tid"])
        for row in pq.read_table(f"{trace}.posts.parquet").to_pylist()
        if row["replay"] == "captured" and row["agent"] == "kvm"
    }
    with closing(open_trace(str(trace))) as source:
        (whole,) = find_trace_posts(source)
    found = whole.part.analysis
    p, vcpus = found.timeline.posts, found.timeline.vcpus.rows
    assert len(p) > 200
    assert {"vfio", "vhost", "ipi", "timer"} == {Origin(o).label for o in p.origin}
    ts_ns = found.events.ts_ns[p.row]
    for at, vector, o, v in zip(ts_ns, p.vector, p.origin, p.vcpu, strict=True):
        assert truth[int(at), int(vector)] == (Origin(o).label, vcpus[v].tid)
