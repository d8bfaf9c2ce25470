"""What a pCPU does with interrupts, where no worked scenario shows it."""

from __future__ import annotations

from piscope.model.descriptor import Put
from piscope.model.lapic import Host
from piscope.model.policy import POLICIES


def two_vcpus() -> Host:
    """A blocked with F1, B in userspace with F2, both last on c0; IRQs off there."""
    host = Host(POLICIES["preempt-only"], vcpus="AB")
    host.load("A", 0)
    host.put("A", Put(blocking=True))
    host.load("B", 0)
    host.put("B", Put())
    host.irq_off(0)
    return host


def kinds(host: Host) -> list[str]:
    return [happening.kind for happening in host.take_log()]


def test_the_higher_vector_is_taken_first():
    host = two_vcpus()
    host.post_hw("A", 0x41)
    host.post_hw("B", 0x41)
    assert kinds(host) == ["notify", "notify"]
    host.irq_on(0)
    assert kinds(host) == ["pin", "piw"]


def test_a_latched_wakeup_ends_a_guests_run_at_once():
    host = two_vcpus()
    host.post_hw("A", 0x41)
    host.load("B", 0)
    host.take_log()
    host.enter("B")
    assert kinds(host) == ["vmexit", "piw"]
    assert host.cpus[0].guest is None
    assert host.asleep == set()


def test_kvm_leaves_an_inhibited_vcpus_descriptor_alone():
    host = two_vcpus()
    host.inhibit("B")
    before = host.vcpus["B"]
    host.post_sw("B", 0x41)
    assert kinds(host) == ["not_posted"]
    assert host.vcpus["B"] == before


def test_a_vcpu_that_posts_to_itself_needs_no_ipi():
    host = Host(POLICIES["preempt-only"])
    host.load("A", 0)
    host.enter("A")
    host.vm_exit("A")  # fastpath: the mode is still IN_GUEST_MODE
    host.post_sw("A", 0x41, poster="A")
    assert kinds(host) == []
    assert host.vcpus["A"].pi.on
