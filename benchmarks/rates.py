"""How well posts at a rate are told, beside simulations and what kernels counted.

    python -m benchmarks.rates              all three tables, as Markdown
    python -m benchmarks.rates simulation   the closed form, and random posts replayed
    python -m benchmarks.rates estimator    known rates, recovered from their PIN
    python -m benchmarks.rates kernels      one kernel's PIN from the other's

The simulation draws posts at random instants and gives them to the replay as a user
would with `--posts`; it knows nothing of epochs. Its draws are seeded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from piscope.counters_pipeline import counters_of
from piscope.errors import UnanswerableError
from piscope.interrupts import Counts, read_tables
from piscope.model.letters import Letter
from piscope.outcomes import Hit
from piscope.pipeline import Analysis, analyze
from piscope.rates_pipeline import arrivals_at, openings_of, walked_again
from piscope.replay.arrivals import Arrivals
from piscope.replay.estimate import estimate
from piscope.replay.findings import find
from piscope.replay.openings import bare
from piscope.replay.rates import IN_HOST, UNLOADED, Expected, expected
from piscope.replay.stimuli import build_stimuli
from piscope.report.selection import Selection
from piscope.sources.detect import open_trace
from piscope.timeline.user_posts import UserPosts, with_user_posts

SAMPLES = Path(__file__).resolve().parent.parent / "sample_traces"
POLICIES = ("preempt-only", "suppress-on-put")

QUANTITIES = {
    "not loaded": UNLOADED,
    "wrong vCPU": (Hit.WRONG_VCPU,),
    "loaded, in the host": (Hit.HOST,),
}


def analyzed(path: Path, posted: str = "none") -> Analysis:
    with closing(open_trace(str(path))) as source:
        return analyze(source, policies=POLICIES, posted=posted)


def captures() -> Iterator[Path]:
    """The lab captures that come with the project and hold a VMX host's vCPUs."""
    yield from sorted(SAMPLES.rglob("vmx-*.trace.dat"))


def random_posts(
    analysis: Analysis, rate_hz: float, arrivals: Arrivals, rng: np.random.Generator
) -> UserPosts:
    """Poisson arrivals at each vCPU, as a user's file would give them."""
    begin_ns, end_ns = analysis.timeline.span_ns
    times: list[npt.NDArray[np.int64]] = []
    targets: list[npt.NDArray[np.int32]] = []
    for vcpu in range(len(analysis.timeline.vcpus)):
        n = rng.poisson(rate_hz * (end_ns - begin_ns) / 1e9)
        ts_ns = rng.integers(begin_ns, end_ns, n)
        # those at which the clock stands still do not arrive
        of = np.full(n, vcpu)
        goes = arrivals.clock_ns(of, ts_ns + 1) > arrivals.clock_ns(of, ts_ns)
        times.append(ts_ns[goes])
        targets.append(np.full(int(goes.sum()), vcpu, np.int32))
    ts_ns, target = np.concatenate(times), np.concatenate(targets)
    return UserPosts(
        path="random",
        by_line=True,
        row=np.arange(len(ts_ns)),
        ts_ns=ts_ns,
        target=target,
        names=tuple(v.label for v in analysis.timeline.vcpus.rows),
        vector=rng.integers(32, 255, len(ts_ns)).astype(np.int16),
        agent=np.ones(len(ts_ns), np.uint8),
    )


Counted = dict[tuple[str, str], tuple[float, float]]
"""(policy, quantity) -> (least, most)."""


def simulated(
    analysis: Analysis,
    rate_hz: float,
    arrivals: Arrivals,
    seed: int,
    policies: Sequence[str] = POLICIES,
) -> Counted:
    """What the replay makes of random posts; without those that probes betray."""
    rng = np.random.default_rng(seed)
    given = random_posts(analysis, rate_hz, arrivals, rng)
    timeline = with_user_posts(analysis.timeline, analysis.events, given)
    stimuli = build_stimuli(timeline, analysis.events, analysis.posted)
    stimuli = bare(stimuli, analysis.events)
    again = replace(analysis, timeline=timeline)
    counted: Counted = {}
    for policy in policies:
        walked = walked_again(again, stimuli, policy)
        found = find(timeline, stimuli, walked, analysis.occupancy)
        # KVM's own may race with a VM-exit, at any rate
        mine = walked.letters[found.stimulus] == Letter.POST_HW
        for name, hits in QUANTITIES.items():
            counted[policy, name] = (
                int((found.surely(*hits) & mine).sum()),
                int((found.maybe(*hits) & mine).sum()),
            )
    return counted


def closed_form(
    analysis: Analysis,
    rate_hz: float,
    arrivals: Arrivals,
    policies: Sequence[str] = POLICIES,
) -> dict[tuple[str, str], Expected]:
    openings = openings_of(analysis, analysis.stimuli, policies, arrivals)
    rates = np.full(len(analysis.timeline.vcpus), rate_hz)
    return {
        (policy, name): expected(o, rates, hits, ~o.maybe(Hit.SOFTWARE))
        for policy, o in openings.items()
        for name, hits in QUANTITIES.items()
    }


SIMULATED_HZ = (100.0, 1000.0, 10000.0)
RUNS = 40


def simulation() -> Iterator[str]:
    yield "| capture | posts a second | policy | not loaded: closed form | replay |"
    yield "| --- | ---: | --- | ---: | ---: |"
    worst: list[float] = []
    lines = 0
    for path in captures():
        try:
            analysis = analyzed(path)
        except UnanswerableError:
            continue
        arrivals = arrivals_at(analysis, ())
        name = path.name.removesuffix(".trace.dat")
        for rate_hz in SIMULATED_HZ:
            told = closed_form(analysis, rate_hz, arrivals)
            runs = [simulated(analysis, rate_hz, arrivals, s) for s in range(RUNS)]
            for (policy, quantity), value in told.items():
                least = np.array([run[policy, quantity][0] for run in runs])
                error = value.sd / np.sqrt(RUNS)
                lines += 1
                if value.sd > 0.5:
                    worst.append(float((least.mean() - value.least) / error))
                if quantity == "not loaded" and rate_hz == 1000 and value.least:
                    yield (
                        f"| `{name}` | {rate_hz:,.0f} | {policy} |"
                        f" {value.least:.1f} ± {value.sd:.1f} |"
                        f" {least.mean():.1f} ± {least.std(ddof=1):.1f} |"
                    )
    z = np.array(worst)
    yield ""
    yield (
        f"{lines} numbers (three quantities, two policies, {len(SIMULATED_HZ)} rates,"
        f" mean of {RUNS} seeded runs each): of the {len(z)} with a standard deviation"
        f" above 0.5 the mean lies within 2 standard errors of the closed form in"
        f" {100 * np.mean(np.abs(z) <= 2):.0f}%, within 3 in"
        f" {100 * np.mean(np.abs(z) <= 3):.1f}%; the farthest is"
        f" {np.abs(z).max():.1f} away, the mean of all is {z.mean():+.2f}."
    )


def recovered(
    analysis: Analysis, policy: str, rate_hz: float, seed: int
) -> tuple[float, bool]:
    """(likeliest rate over the true one, whether the interval holds the true one)."""
    arrivals = arrivals_at(analysis, ())
    openings = openings_of(analysis, analysis.stimuli, [policy], arrivals)[policy]
    everywhere = np.ones(len(openings), np.bool_)
    # what the replay can't tell apart is as settled as it gets, for it counts them so
    openings = replace(openings, settled=everywhere)
    rng = np.random.default_rng(seed)
    given = random_posts(analysis, rate_hz, arrivals, rng)
    timeline = with_user_posts(analysis.timeline, analysis.events, given)
    stimuli = bare(build_stimuli(timeline, analysis.events, "none"), analysis.events)
    again = replace(analysis, timeline=timeline)
    found = find(
        timeline, stimuli, walked_again(again, stimuli, policy), analysis.occupancy
    )
    counted = int(found.surely(*IN_HOST).sum())
    told = estimate(openings, IN_HOST, everywhere, counted)
    middle = sum(told.rate_hz) / 2
    return middle / rate_hz, told.low_hz <= rate_hz <= told.high_hz


def estimator() -> Iterator[str]:
    runs = 50
    yield "| capture | policy | true rate | median of the likeliest | 99% holds it |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for name, policy in (
        ("vmx-6.12.117-ipiv-us.n_userspace_slow", "preempt-only"),
        ("vmx-6.17.13-ipiv-us.n_userspace_slow", "suppress-on-put"),
        ("vmx-6.17.13-ipiv.f_2vm", "suppress-on-put"),
    ):
        analysis = analyzed(SAMPLES / f"{name}.trace.dat")
        for rate_hz in (50.0, 500.0, 5000.0):
            found = [recovered(analysis, policy, rate_hz, s) for s in range(runs)]
            ratio = np.median([r for r, _ in found])
            held = sum(inside for _, inside in found)
            yield (
                f"| `{name}` | {policy} | {rate_hz:,.0f} | {ratio * rate_hz:,.0f}"
                f" ({100 * (ratio - 1):+.1f}%) | {held} of {runs} |"
            )


@dataclass(frozen=True, slots=True)
class Work:
    """The same load on both kernels; vCPU 1 sends IPIs to vCPU 0."""

    session: str
    what: str


WORK = (
    Work("k_userspace_ipi", "IPIs without end"),
    Work("n_userspace_slow", "an IPI a millisecond"),
    Work("l_wrong_vcpu", "as k, a busy vCPU 2 on the same pCPU"),
    Work("o_wrong_vcpu_slow", "as n, likewise"),
)
KERNELS = {"6.12.117": "preempt-only", "6.17.13": "suppress-on-put"}


def capture(kernel: str, with_: str, session: str) -> Path:
    name = f"vmx-{kernel}-{with_}.{session}.trace.dat"
    return next(p for p in (SAMPLES / name, SAMPLES / "proof" / name) if p.is_file())


def counts(path: Path) -> list[Counts]:
    """/proc/interrupts before and after, from the notes beside a capture."""
    meta = path.with_name(path.name.replace(".trace.dat", ".meta.txt"))
    return read_tables(meta.read_text(), str(meta))


def round_trips(path: Path) -> int:
    meta = path.with_name(path.name.replace(".trace.dat", ".meta.txt"))
    match = re.search(r"vcpu0: KVM_RUN (\d+)", meta.read_text())
    assert match is not None
    return int(match[1])


def pin(path: Path, cpu: int = 0) -> int:
    before, after = counts(path)
    return after["PIN"][cpu] - before["PIN"][cpu]


@dataclass(frozen=True, slots=True)
class Crossed:
    """What one kernel's PIN says of the other's."""

    session: str
    kernel: str
    counted: int
    rate_hz: tuple[float | None, float | None]
    interval_hz: tuple[float | None, float | None]
    predicted: tuple[float, float]
    interval: tuple[float, float]
    other: int

    @property
    def holds(self) -> bool:
        return self.interval[0] <= self.other <= self.interval[1]


def crossed(session: str, kernel: str) -> Crossed:
    path = capture(kernel, "ipiv-us", session)
    (other,) = (k for k in KERNELS if k != kernel)
    told = counters_of(
        analyzed(path),
        [(None, table) for table in counts(path)],
        Selection(vcpus=("0",), cpus=frozenset({0})),
        source="files",
        path=str(path),
        senders=("1",),
    )
    (line,) = told.estimates
    predicted = line.predicted[KERNELS[other]]
    return Crossed(
        session,
        kernel,
        line.counted,
        (line.min_hz, line.max_hz),
        (line.low_hz, line.high_hz),
        (predicted.min, predicted.max),
        (predicted.low, predicted.high),
        pin(capture(other, "ipiv-us", session)),
    )


def kernels() -> Iterator[str]:
    yield (
        "| work | PIN of | counted | posts a second, 99% | PIN of the other, 99% |"
        " counted |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for work in WORK:
        for kernel in KERNELS:
            c = crossed(work.session, kernel)
            rate = _range(*c.rate_hz)
            yield (
                f"| {work.session}: {work.what} | {kernel} | {c.counted} |"
                f" {rate}, {_range(*c.interval_hz)} |"
                f" {_range(*c.predicted)}, {_range(*c.interval)} | {c.other}"
                f"{'' if c.holds else ' (outside)'} |"
            )
    yield ""
    yield (
        "Without IPI virtualization the same IPIs are VM-exits of vCPU 1, each with an"
        " event; `--posted ipi` replays them as hardware's:"
    )
    yield ""
    yield (
        "| work on 6.12, no IPIv | round trips | policy | replay: host IRQs |"
        " the kernel with IPIv | round trips |"
    )
    yield "| --- | ---: | --- | ---: | ---: | ---: |"
    for session in ("k_userspace_ipi", "l_wrong_vcpu"):
        path = capture("6.12.117", "noipiv-us", session)
        analysis = analyzed(path, "ipi")
        for kernel, policy in KERNELS.items():
            found = analysis.results[policy].findings
            least = int((found.surely(*IN_HOST) & (found.coalesced == 0)).sum())
            most = int((found.maybe(*IN_HOST) & (found.coalesced != 1)).sum())
            with_ipiv = capture(kernel, "ipiv-us", session)
            yield (
                f"| {session} | {round_trips(path)} | {policy} |"
                f" {_range(least, most)} | {kernel}: {pin(with_ipiv)} |"
                f" {round_trips(with_ipiv)} |"
            )


def _range(least: float | None, most: float | None) -> str:
    one, two = (_shown(value) for value in (least, most))
    return one if one == two else f"{one} to {two}"


def _shown(value: float | None) -> str:
    return "no limit" if value is None else f"{value:,.0f}"


TABLES = {"simulation": simulation, "estimator": estimator, "kernels": kernels}


def main() -> None:
    names = sys.argv[1:] or list(TABLES)
    for name in names:
        print(f"\n### {name}\n")
        for line in TABLES[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
