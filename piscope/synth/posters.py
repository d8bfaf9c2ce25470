"""Who posts: devices through VT-d, KVM for whoever asked it to, and IPIs.

What KVM posts shows as the call chain that it is; what hardware posts leaves no event.

    [kvm_msi_set_irq] kvm_apic_accept_irq  (the post itself)  kvm_apicv_accept_irq

Source: arch/x86/kvm/lapic.c (__apic_accept_irq), vmx.c (vmx_deliver_interrupt).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from piscope.synth.events import HARDIRQ, IRQS_OFF, E
from piscope.synth.machine import Machine
from piscope.synth.pcpu import (
    KERNEL,
    OFF,
    SLEEP,
    TASK_INTERRUPTIBLE,
    USER,
    Irq,
    Pcpu,
    Thread,
    Work,
)
from piscope.synth.replica import Post
from piscope.synth.scenario import Device, Hog
from piscope.synth.vcpus import Guest

__all__ = ("Posters",)

_MSI_ADDRESS = 0xFEE00000
_FIRST_IRQ, _FIRST_VECTOR = 120, 0x30
_STEP_NS, _BURST_NS = 200, 2000


class Posters:
    """Makes posts, numbers them, and tells `on_post` of each."""

    def __init__(self, machine: Machine, on_post: Callable[[Post], None]) -> None:
        self.machine, self.on_post = machine, on_post
        self.posts = 0
        self._irqs = 0

    def _made(self, target: Guest, vector: int, agent: str, source: str) -> Post:
        post = Post(
            self.posts, self.machine.recorder.now, target.name, vector, agent, source
        )
        self.posts += 1
        self.on_post(post)
        return post

    def post_hw(self, target: Guest, vector: int, agent: str, source: str) -> None:
        """VT-d or IPI virtualization posts, now."""
        self.machine.recorder.stamp()
        post = self._made(target, vector, agent, source)
        self.machine.follow(self.machine.descriptors.post_hw(post))

    def kvm_post(
        self, target: Guest, vector: int, source: str, *, msi: bool = False
    ) -> Post:
        """A post that KVM is to make: `deliver` makes it."""
        post = self._made(target, vector, "kvm", source)
        post.unicast_msi = msi
        return post

    def deliver(
        self,
        post: Post,
        tid: int,
        *,
        poster: Guest | None = None,
        here: Callable[[], Pcpu] | None = None,
        irq: bool = False,
    ) -> Work:
        """KVM posts in the context of that thread, or of an interrupt handler."""
        machine, recorder = self.machine, self.machine.recorder
        target = machine.guests[post.vcpu]
        at = here or (lambda: target.pcpu if poster is None else poster.pcpu)
        where, flags = (OFF, IRQS_OFF | HARDIRQ) if irq else (KERNEL, 0)
        if post.unicast_msi:
            address = _MSI_ADDRESS | target.vcpu_id << 12
            msi_ns = recorder.emit(
                E.kvm_msi_set_irq, at().number, tid, flags, address, post.vector
            )
            if post.begun_ns is None:  # no host interrupt: here it would be posted
                post.begun_ns = msi_ns
                machine.descriptors.post_msi(post)
            yield where, _STEP_NS
        accept = target.vcpu_id, post.vector
        accept_ns = recorder.emit(
            E.kvm_apic_accept_irq, at().number, tid, flags, *accept
        )
        if post.begun_ns is None:
            post.begun_ns = accept_ns
        yield where, _STEP_NS
        post.ts_ns = recorder.stamp()
        consequences = machine.descriptors.post_sw(
            post, None if poster is None else poster.name
        )
        for one in consequences:
            if one.kind == "wake" and machine.guests[one.vcpu].halts.blocking:
                machine.wake(machine.guests[one.vcpu].thread, at(), flags)
        machine.follow(consequences)
        yield where, _STEP_NS
        post.accept_ns = recorder.emit(
            E.kvm_apicv_accept_irq, at().number, tid, flags, *accept
        )

    # Devices -------------------------------------------------------------------

    def start(self, device: Device, targets: list[Guest], name: str, tid: int) -> None:
        """Let a device post, from its first instant on; `tid` for its thread."""
        machine = self.machine
        chosen = [t for t in targets if not device.vcpus or t.vcpu_id in device.vcpus]
        rng = random.Random(f"{machine.scenario.capture.seed}/{name}")
        pcpus = device.pcpus or machine.all_pcpus
        gaps = _gaps(device, rng)
        start_ns = machine.recorder.now + int(device.start_ms * 1e6)

        def pick() -> tuple[Guest, int]:
            return rng.choice(chosen), rng.choice(device.vectors)

        if device.mode in ("vhost", "msi"):
            self._start_thread(device.mode, pick, gaps, (name, tid), pcpus, start_ns)
            return
        self._irqs += 1
        irq = _FIRST_IRQ + self._irqs
        label = f"vfio-msix[0](0000:{self._irqs:02x}:00.0)"
        number = machine.recorder.string(label)
        vector = _FIRST_VECTOR + self._irqs % 128

        def handler(pcpu: Pcpu) -> Work:
            emit = machine.recorder.emit
            at = pcpu.number, pcpu.tid, IRQS_OFF | HARDIRQ
            post = self.kvm_post(*pick(), label, msi=True)
            post.begun_ns = emit(E.irq_handler_entry, *at, irq, number)
            machine.descriptors.post_msi(post)
            yield OFF, _STEP_NS
            yield from self.deliver(post, pcpu.tid, here=lambda: pcpu, irq=True)
            emit(E.irq_handler_exit, *at, irq, 1)

        def fire() -> None:
            machine.call(machine.recorder.now + next(gaps), fire)
            if device.mode == "posted":
                self.post_hw(*pick(), "vtd", label)
            else:
                machine.pcpus[rng.choice(pcpus)].interrupt(Irq(vector, handler))

        machine.call(start_ns + next(gaps), fire)

    def _start_thread(
        self,
        mode: str,
        pick: Callable[[], tuple[Guest, int]],
        gaps: Iterator[int],
        who: tuple[str, int],
        pcpus: tuple[int, ...],
        start_ns: int,
    ) -> None:
        machine, (name, tid) = self.machine, who

        def where() -> Pcpu:
            return machine.pcpus[thread.cpu]

        def work() -> Work:
            yield KERNEL, _STEP_NS
            sleep_ns = start_ns - machine.recorder.now
            while True:
                sleep_ns += next(gaps)
                if sleep_ns > _BURST_NS:
                    machine.wake_after(thread, sleep_ns)
                    yield SLEEP, TASK_INTERRUPTIBLE
                if mode == "msi":
                    yield USER, _STEP_NS
                yield KERNEL, _STEP_NS
                post = self.kvm_post(*pick(), name, msi=True)
                yield from self.deliver(post, tid, here=where)
                sleep_ns = 0

        thread = Thread(tid, pcpus, work())
        machine.start(thread, name)

    def start_hog(self, hog: Hog, tid: int, number: int) -> None:
        """A thread that computes."""
        machine = self.machine
        rng = random.Random(f"{machine.scenario.capture.seed}/hog{number}")

        def work() -> Work:
            while True:
                yield USER, 1 + int(rng.expovariate(1 / hog.run_us) * 1000)
                if hog.sleep_us:
                    ns = 2000 + int(rng.expovariate(1 / hog.sleep_us) * 1000)
                    machine.wake_after(thread, ns)
                    yield SLEEP, TASK_INTERRUPTIBLE

        thread = Thread(tid, hog.pcpus or machine.all_pcpus, work())
        machine.start(thread, f"hog/{number}")


def _gaps(device: Device, rng: random.Random) -> Iterator[int]:
    """ns from each post to the next."""
    every_ns = device.every_us * 1000
    while True:
        if device.pattern == "periodic":
            yield max(int(every_ns), 1)
            continue
        yield 1 + int(rng.expovariate(1 / every_ns))
        if device.pattern == "burst":
            yield from [_BURST_NS] * (device.burst - 1)
