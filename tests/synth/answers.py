"""What piscope says of a synthetic capture, beside its truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from piscope.outcomes import Findings, Hit
from piscope.pipeline import Analysis, analyze
from piscope.posted import Posted
from piscope.sources.detect import open_trace
from piscope.synth.capture import synthesize
from piscope.synth.scenario import Scenario
from piscope.synth.truth import truth_paths


@dataclass
class Case:
    """A capture that was made, and the rows of its truth."""

    path: Path
    scenario: Scenario
    posts: list[dict[str, Any]]
    windows: list[dict[str, Any]]

    def of(self, replay: str) -> list[dict[str, Any]]:
        return [post for post in self.posts if post["replay"] == replay]

    def hits(self, replay: str) -> Counter[str]:
        return Counter(post["hit"] for post in self.of(replay))

    def analysis(self, posted: Posted, **options: Any) -> Analysis:
        policies = tuple(dict.fromkeys(one.policy for one in self.scenario.replay))
        with closing(open_trace(str(self.path))) as source:
            return analyze(source, policies=policies, posted=posted, **options)


def made(scenario: Scenario, path: Path) -> Case:
    synthesize(scenario, path)
    paths = truth_paths(path)
    return Case(
        path,
        scenario,
        pq.read_table(paths["posts"]).to_pylist(),
        pq.read_table(paths["windows"]).to_pylist(),
    )


@dataclass
class Answer:
    """A traced post's true outcome, and those that the analysis allows."""

    truth: dict[str, Any]
    possible: frozenset[str]
    certain: bool
    kind: int

    @property
    def right(self) -> bool:
        return self.truth["hit"] in self.possible

    @property
    def exact(self) -> bool:
        return self.possible == {self.truth["hit"]}


def answers(case: Case, analysis: Analysis, policy: str) -> Iterator[Answer]:
    """Each traced post of one policy, in the order of the analysis."""
    truth = {
        (post["accept_ns"], post["tid"]): post
        for post in case.of(f"{policy}/{analysis.posted}")
        if post["accept_ns"] is not None
    }
    findings: Findings = analysis.results[policy].findings
    posts, events = analysis.timeline.posts, analysis.events
    tids = {row.vcpu: row.tid for row in analysis.timeline.vcpus.rows}
    for i, stimulus in enumerate(findings.stimulus.tolist()):
        post = int(analysis.stimuli.post[stimulus])
        if post < 0:
            continue
        at = int(events.ts_ns[posts.row[post]])
        possible = frozenset(
            hit.label for hit in Hit if findings.possible[i] >> hit & 1
        )
        yield Answer(
            truth[at, tids[int(posts.vcpu[post])]],
            possible,
            bool(findings.certain[i]),
            int(findings.kind[i]),
        )
