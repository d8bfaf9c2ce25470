"""Random streams of kvm and sched events, legal and illegal, of several vCPUs."""

from __future__ import annotations

from hypothesis import strategies as st
from timeline.scene import (
    DEAD,
    DISK,
    HLT,
    IO,
    PREEMPTED,
    RUNNABLE,
    SLEEPS,
    Scene,
    Vcpu,
)

from piscope.sources.raw import Loss

_STEPS = (
    "enter",
    "exit",
    "halt",
    "run",
    "unload",
    "leave",
    "wakeup",
    "out",
    "into",
    "woken",
    "pi_load",
    "pi_put",
    "accept",
    "tick",
)


@st.composite
def scenes(draw: st.DrawFn, probes: bool | None = None) -> Scene:
    """1 to 4 vCPUs on 1 to 4 pCPUs that do anything at all, with up to three losses.

    A vCPU may be in two places, leave a guest that it never entered, or be loaded
    twice: a damaged or foreign trace may say so.
    """
    cpus = draw(st.integers(1, 4))
    scene = Scene(cpus=tuple(range(cpus)))
    vcpus = [scene.vcpu(i, cpu=i % cpus) for i in range(draw(st.integers(1, 4)))]
    with_probes = draw(st.booleans()) if probes is None else probes
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(vcpus),
                st.sampled_from(_STEPS),
                st.integers(0, cpus - 1),
                st.sampled_from((RUNNABLE, PREEMPTED, SLEEPS, DISK, DEAD)),
                st.integers(0, 3),
            ),
            min_size=1,
            max_size=60,
        )
    )
    vcpus[0].enter()
    for vcpu, step, cpu, state, number in steps:
        _take(scene, vcpu, step, cpu, state, number, with_probes)
    span_ns = scene.now_ns
    instants = st.one_of(st.none(), st.integers(-2000, span_ns + 2000))
    for _ in range(draw(st.integers(0, 3))):
        start_ns, end_ns = draw(instants), draw(instants)
        if start_ns is not None and end_ns is not None and start_ns > end_ns:
            start_ns, end_ns = end_ns, start_ns
        cpu_lost = draw(st.one_of(st.none(), st.integers(0, cpus)))
        cause = draw(st.sampled_from(("missed-events", "overwritten", "damaged")))
        count = draw(st.one_of(st.none(), st.integers(0, 5)))
        scene.losses.append(Loss(cause, cpu_lost, start_ns, end_ns, count))
    return scene


def _take(
    scene: Scene,
    vcpu: Vcpu,
    step: str,
    cpu: int,
    state: int,
    number: int,
    with_probes: bool,
) -> None:
    match step:
        case "exit" | "halt":
            vcpu.exit(HLT if step == "halt" else IO)
        case "out":
            vcpu.out(state, to=100 + number)
        case "into":
            vcpu.into(cpu, after=100 + number)
        case "woken":
            vcpu.woken(cpu, by=100 + number)
        case "accept":
            scene.accept(vcpu.vcpu_id, 0x40 + number, cpu, tid=100 + number)
        case "tick":
            scene.tick(cpu)
        case "pi_load" if with_probes:
            vcpu.pi_load(on=number & 1, sn=number >> 1, pir=number)
        case "pi_put" if with_probes:
            vcpu.pi_put((number & 1, number >> 1), preempted=number & 1)
        case "pi_load" | "pi_put":
            pass
        case _:
            getattr(vcpu, step)()
