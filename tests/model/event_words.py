"""The words of scenarios.json: events as calls of a Host, its state and log as text."""

from __future__ import annotations

import re

from piscope.model.descriptor import Put
from piscope.model.lapic import Happening, Host
from piscope.model.policy import DEFAULT_PLATFORM

PUTS = {
    "return to userspace": Put(),
    "preempted": Put(preempted=True),
    "sleep D, not blocking": Put(),
    "sched_out, runnable, preempted=0": Put(),
    "blocking, IF=1": Put(blocking=True),
    "blocking, IF=0": Put(blocking=True, irqs_blocked=True),
    "blocking IF=1 + preempted": Put(preempted=True, blocking=True),
}

# Event text -> what to do with the Host and the groups of the match.
EVENTS = {
    r"(?:\w woken by something else; )?load (\w) c(\d)": lambda h, v, c: h.load(
        v, int(c)
    ),
    r"put (\w) \((.*)\)": lambda h, v, why: h.put(v, PUTS[why]),
    r"IRQ-off; mode=IN; sync; VM-entry (\w)": lambda h, v: h.enter(v),
    r"VM-exit (\w); mode=OUT; IRQ-on": lambda h, v: h.exit(v),
    r"VM-exit (\w) \(IRQ-off\)": lambda h, v: h.vm_exit(v),
    r"VM-entry (\w) \(raw\)": lambda h, v: h.vm_entry(v),
    r"(\w)\.mode=IN": lambda h, v: h.mode_in_guest(v),
    r"(\w)\.mode=OUT": lambda h, v: h.mode_outside_guest(v),
    r"sync_pir_to_irr (\w)": lambda h, v: h.sync(v),
    r"c(\d) IRQ-off": lambda h, c: h.irq_off(int(c)),
    r"c(\d) IRQ-on": lambda h, c: h.irq_on(int(c)),
    r"HW post (\w) 0x(\w\w)": lambda h, v, x: h.post_hw(v, int(x, 16)),
    r"HW post (\w) 0x(\w\w) URG=1": lambda h, v, x: h.post_hw(v, int(x, 16), True),
    r"SW post (\w) 0x(\w\w)": lambda h, v, x: h.post_sw(v, int(x, 16)),
    r"load: clear SN": lambda h: h.load_clear_sn("A", 0),
    r"load on c1: clear SN, NDST=c1": lambda h: h.load_clear_sn("A", 1),
    r"load: PIR scan": lambda h: h.load_scan("A"),
    r"thread now on c1 \(sched_migrate_task\)": lambda h: None,
    r"c(\d) guest runs without process-posted-interrupts": lambda h, c: h.inhibit(
        h.cpus[int(c)].guest
    ),
}


def perform(host: Host, event: str) -> None:
    """Do what the text says; an event that no pattern fits is a failure."""
    for pattern, action in EVENTS.items():
        found = re.fullmatch(pattern, event)
        if found:
            action(host, *found.groups())
            return
    raise AssertionError(f"unknown event {event!r}")


def host_for(policy, events, platform=DEFAULT_PLATFORM) -> Host:
    """A host with the vCPUs that the events name."""
    text = " ".join(events)
    names = re.findall(r"\b([AB])\b", text)
    return Host(policy, platform, sorted(set(names)))


def vectors(bits: int) -> str:
    return ",".join(f"{v:x}" for v in range(256) if bits >> v & 1)


def state_text(host: Host) -> str:
    parts = []
    for vcpu in host.vcpus.values():
        pi = vcpu.pi
        ndst = "-" if vcpu.cpu is None else pi.ndst
        text = (
            f"{{{vectors(pi.pir)}}} ON{pi.on:d} SN{pi.sn:d} "
            f"{pi.nv:X}→c{ndst} vIRR{{{vectors(vcpu.virr)}}}"
        )
        if vcpu.wakeup_cpu is not None:
            text += f" wl=c{vcpu.wakeup_cpu}"
        parts.append(text)
    latched = [
        f" [c{cpu} IRR={','.join(f'{v:X}' for v in sorted(pcpu.irr))}]"
        for cpu, pcpu in sorted(host.cpus.items())
        if pcpu.irr
    ]
    return " · ".join(parts) + "".join(latched)


def happening_text(h: Happening, sent_by_kvm: bool) -> str:
    match h.kind:
        case "notify":
            return f"{'sw:IPI' if sent_by_kvm else 'notify'} c{h.cpu}:{h.vector:X}"
        case "self_ipi":
            return f"self-IPI c{h.cpu}:{h.vector:X}"
        case "coalesced":
            return f"c{h.cpu}:{h.vector:X} coalesced"
        case "pin":
            return f"PIN(c{h.cpu})"
        case "piw":
            names = [n if n in h.asleep else f"{n}(not asleep)" for n in h.woken]
            return f"PIW(c{h.cpu}) wakes={names}"
        case "hwpi":
            moved = [f"0x{v:x}" for v in range(256) if h.moved >> v & 1]
            wrong = " WRONG-VCPU" if h.wrong else ""
            return f"HWPI({h.vcpu}) moved={moved} on_was={h.on_was:d}{wrong}"
        case "vmexit":
            return f"VMEXIT({h.vcpu},EXTINT,{h.vector:X})"
        case "silenced":
            if h.why == "pir":
                return "sw:PIR already set"
            if sent_by_kvm:
                return "sw:ON already set"
            return f"no-notif({h.why.upper()})"
        case "wake":
            return "sw:wake" if h.asleep else "sw:wake(no-op)"
        case "sync":
            return "sync"
    raise AssertionError(h)


def outcome_text(host: Host, event: str) -> str:
    sent_by_kvm = event.startswith("SW post")
    return "; ".join(happening_text(h, sent_by_kvm) for h in host.take_log())


def totals(host: Host) -> list[int]:
    return [host.totals["pin"], host.totals["piw"], host.totals["wrong"]]
