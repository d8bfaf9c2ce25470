"""A kernel in miniature, written from posted_intr.c and not from the model.

Each vCPU is created, loaded, run, posted to and put at random; the probes' events are
what a kprobe on the real functions would have read. Names and arguments of the probes,
the form of NDST and the kernel's generation are the test's choice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from fake_source import FakeSource, Row

F1, F2 = 0xF1, 0xF2

Generation = Literal["5.10", "5.15", "6.12", "6.17"]


@dataclass
class Probes:
    """The probes' events by point (None: not set), and how they name an argument."""

    load: str | None = "pi:pi_load"
    load_return: str | None = "pi:pi_load_done_0x44"
    put: str | None = "pi:pi_put"
    put_return: str | None = "pi:pi_put_done_0x198"
    names: dict[str, str] = field(default_factory=dict)
    flags: bool = True
    pir: Literal["words", "text"] = "words"


@dataclass
class Desc:
    """struct pi_desc, and what KVM keeps beside it."""

    vcpu_id: int
    tid: int
    pir: int = 0
    on: int = 0
    sn: int = 0
    nv: int = 0
    ndst: int = 0
    cpu: int = -1
    pre_pcpu: int = -1


class Host:
    """Runs vCPUs and keeps the events; `rows` are those of a FakeSource."""

    def __init__(
        self,
        generation: Generation = "6.17",
        *,
        needs_pi_wakeup: bool = True,
        x2apic: bool = False,
        cpus: int = 4,
        vcpus: int = 3,
        probes: Probes | None = None,
        with_kvm_events: bool = True,
        addresses: bool = False,
        seed: int = 1,
    ) -> None:
        self.generation = generation
        self.needs = needs_pi_wakeup
        self.cpus = cpus
        self.probes = probes or Probes()
        self.kvm_events = with_kvm_events
        self.addresses = addresses
        self.random = random.Random(seed)
        self.now_ns = 1_000_000
        self.rows: list[Row] = []
        # APIC ids that are no pCPU numbers
        ids = [2 * cpu + 1 for cpu in range(cpus)]
        self.ndst_of = ids if x2apic else [(i << 8) & 0xFF00 for i in ids]
        self.descs = [Desc(i, 100 + i) for i in range(vcpus)]
        self.wakeups = 0

    def source(self, **info: Any) -> FakeSource:
        return FakeSource(self.rows, **info)

    def run(self, rounds: int = 40) -> Host:
        """Create all vCPUs and let each live for some rounds."""
        for d in self.descs:
            self._create(d)
        for _ in range(rounds):
            self._round(self.random.choice(self.descs))
        return self

    # --- what the kernel does ------------------------------------------------

    def _create(self, d: Desc) -> None:
        cpu = self.random.randrange(self.cpus)
        if self.generation in ("5.10", "5.15"):
            self.load(d, cpu)
            self.put(d)
            d.nv, d.sn = F2, 1  # vmx_create_vcpu
        else:
            self.load(d, cpu)
            d.nv, d.sn = F2, 1  # __vmx_vcpu_reset
            self.put(d)

    def _round(self, d: Desc) -> None:
        choose = self.random
        cpu = d.cpu if choose.random() < 0.6 else choose.randrange(self.cpus)
        self._posts(d)
        self.load(d, cpu)
        for _ in range(choose.randrange(3)):
            self._posts(d)
            self.enter(d)
        self._posts(d)
        why = choose.choice(["user", "preempted", "block", "both"])
        if_flag = choose.random() < 0.8
        blocking = why in ("block", "both")
        legacy = self.generation in ("5.10", "5.15")
        if legacy and blocking and not self.pre_block(d, if_flag):
            return self.put(d)
        self._posts(d)
        preempted = why in ("preempted", "both")
        self.put(d, preempted=preempted, blocking=blocking, if_=if_flag)
        if legacy and d.pre_pcpu >= 0:
            self._posts(d)
            self.load(d, choose.randrange(self.cpus))
            self.post_block(d)
            self.put(d)
        return None

    def load(self, d: Desc, cpu: int) -> None:
        self.probe("load", d, cpu, vcpu_cpu=d.cpu)
        if self.generation in ("5.10", "5.15"):
            if not (d.sn == 0 and d.cpu == cpu):
                d.sn = 0
                if d.nv != F1 and d.cpu != cpu:
                    d.ndst = self.ndst_of[cpu]
                if d.pir:
                    d.on = 1
        elif d.nv != F1 and d.cpu == cpu:
            was, d.sn = d.sn, 0
            if was and d.pir:
                d.on = 1
        else:
            d.ndst, d.sn, d.nv = self.ndst_of[cpu], 0, F2
            if d.pir:
                d.on = 1
        d.cpu = cpu
        self.probe("load_return", d, cpu)

    def put(
        self,
        d: Desc,
        preempted: bool = False,
        blocking: bool = False,
        if_: bool = True,
    ) -> None:
        task = np.uint64(0xFFFF888000000000 * blocking)  # the rcuwait's
        flags = {"preempted": int(preempted), "blocking": task}
        self.probe("put", d, d.cpu, **(flags if self.probes.flags else {}))
        if self.needs:
            self._put(d, preempted, blocking, if_)
        self.probe("put_return", d, d.cpu)

    def _put(self, d: Desc, preempted: bool, blocking: bool, if_: bool) -> None:
        if self.generation == "6.17":
            if not preempted and blocking and if_:
                d.nv = F1
            else:
                d.sn = 1
            return
        if self.generation == "6.12" and blocking and if_:
            d.nv = F1
        if preempted:
            d.sn = 1

    def pre_block(self, d: Desc, if_: bool) -> bool:
        """Up to 5.16; False: an interrupt is pending, do not block."""
        if not self.needs or (self.generation == "5.15" and not if_):
            return True
        d.pre_pcpu = d.cpu
        d.ndst, d.nv = self.ndst_of[d.cpu], F1
        if d.on:
            self.post_block(d)
            return False
        return True

    def post_block(self, d: Desc) -> None:
        d.ndst, d.nv = self.ndst_of[d.cpu], F2
        d.pre_pcpu = -1

    def enter(self, d: Desc) -> None:
        """Sync and VM-entry, then the exit."""
        d.on = d.pir = 0
        if self.kvm_events:
            self.event("kvm:kvm_entry", d.cpu, d.tid, vcpu_id=d.vcpu_id)
            self.event("kvm:kvm_exit", d.cpu, d.tid, exit_reason=30, isa=1)

    def _posts(self, d: Desc) -> None:
        choose = self.random.random()
        if choose < 0.3 and self.needs:
            self.post_hw(d, self.random.randrange(0x30, 0xF0))
        elif choose < 0.5 and self.kvm_events:
            self.post_kvm(d, self.random.randrange(0x30, 0xF0))

    def post_hw(self, d: Desc, vector: int) -> None:
        d.pir |= 1 << vector
        if not d.on and not d.sn:
            d.on = 1
            self.wakeups += d.nv == F1

    def post_kvm(self, d: Desc, vector: int) -> None:
        fields = {"apicid": d.vcpu_id, "vec": vector, "dm": 0, "tm": 0}
        self.event("kvm:kvm_apic_accept_irq", 0, 9, **fields)
        if not d.pir >> vector & 1:
            d.pir |= 1 << vector
            d.on = 1
        self.event("kvm:kvm_apicv_accept_irq", 0, 9, **fields)

    # --- what the probes read ------------------------------------------------

    def probe(self, point: str, d: Desc, cpu: int, **more: Any) -> None:
        key = getattr(self.probes, point)
        if key is None:
            self.now_ns += 500
            return
        words = [np.uint64(d.pir >> 64 * i & (1 << 64) - 1) for i in range(4)]
        address = np.uint64(0xFFFF888100000000 + d.vcpu_id * 0x4000)
        vcpu = address if self.addresses else d.vcpu_id
        fields: dict[str, Any] = {
            "vcpu": vcpu,
            **more,
            "ctl": np.uint64(d.on | d.sn << 1 | d.nv << 16 | d.ndst << 32),
        }
        if self.probes.pir == "words":
            fields |= {f"pir{i}": word for i, word in enumerate(words)}
        else:
            fields["pir"] = "{" + ",".join(f"{int(word):#x}" for word in words) + "}"
        renamed = {self.probes.names.get(k, k): v for k, v in fields.items()}
        self.event(key, cpu, d.tid, **renamed)

    def event(self, key: str, cpu: int, tid: int, **fields: Any) -> None:
        self.now_ns += 1000
        self.rows.append((self.now_ns, cpu, tid, key, fields))
