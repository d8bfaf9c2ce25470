"""Which threads are vCPUs, and on what evidence."""

from __future__ import annotations

import pytest
from timeline.scene import Scene

from piscope.errors import UnanswerableError
from piscope.timeline.vcpus import PID_MAX_LIMIT, find_vcpus


def test_an_entry_makes_a_vcpu_and_names_it() -> None:
    scene = Scene(comms={100: "CPU 3/KVM", 9: "vhost-7"})
    scene.event("kvm:kvm_entry", 0, 100, vcpu_id=3)
    scene.event("sched:sched_switch", 0, 9, prev_pid=9, prev_state=1, next_pid=0)
    (vcpu,) = find_vcpus(scene.events()).rows
    assert (vcpu.tid, vcpu.vcpu_id, vcpu.evidence) == (100, 3, "kvm_entry")


def test_a_thread_that_is_named_like_one_and_was_seen() -> None:
    scene = Scene(comms={100: "CPU 0/KVM", 101: "CPU 1/KVM", 102: "CPU 2/KVM"})
    scene.event("kvm:kvm_entry", 0, 100, vcpu_id=0)
    scene.event("kvm:kvm_fpu", 0, 101, load=1)
    vcpus = find_vcpus(scene.events())
    assert [(v.tid, v.evidence) for v in vcpus.rows] == [
        (100, "kvm_entry"),
        (101, "comm"),
    ]


def test_the_guest_option_of_trace_cmd() -> None:
    scene = Scene(guest_threads={100: 4}, guest_name={100: "debian"})
    scene.tick()
    (vcpu,) = find_vcpus(scene.events()).rows
    assert (vcpu.vcpu_id, vcpu.vm, vcpu.evidence) == (4, 0, "guest-option")


def test_vms_by_process() -> None:
    scene = Scene(tgids={100: 7, 101: 7, 200: 8})
    for tid, vcpu_id in ((100, 0), (101, 1), (200, 0)):
        scene.event("kvm:kvm_entry", 0, tid, vcpu_id=vcpu_id)
    vcpus = find_vcpus(scene.events())
    assert vcpus.vm_known
    assert [(v.vm, v.vcpu_id) for v in vcpus.rows] == [(0, 0), (0, 1), (1, 0)]
    assert vcpus.candidates(0) == [0, 2]


def test_shared_vcpu_ids_and_no_process_known() -> None:
    scene = Scene()
    for tid in (100, 200):
        scene.event("kvm:kvm_entry", 0, tid, vcpu_id=0)
    vcpus = find_vcpus(scene.events())
    assert not vcpus.vm_known
    assert [v.vm for v in vcpus.rows] == [None, None]
    assert len({v.label for v in vcpus.rows}) == 2


def test_the_first_vcpu_id_of_a_thread_counts() -> None:
    scene = Scene()
    for vcpu_id in (2, 5, 5):
        scene.event("kvm:kvm_entry", 0, 100, vcpu_id=vcpu_id)
    assert find_vcpus(scene.events()).rows[0].vcpu_id == 2


@pytest.mark.parametrize("tid", [0, -1, PID_MAX_LIMIT + 1, 2**31 - 1])
def test_a_thread_that_no_kernel_has_is_none(tid: int) -> None:
    # and takes no table of 8 GB
    scene = Scene(comms={tid: "CPU 1/KVM"})
    scene.event("kvm:kvm_entry", 0, 100, vcpu_id=0)
    scene.event("kvm:kvm_entry", 0, tid, vcpu_id=1)
    vcpus = find_vcpus(scene.events())
    assert [v.tid for v in vcpus.rows] == [100]
    assert len(vcpus.by_tid) < 200


def test_a_trace_without_any() -> None:
    scene = Scene()
    scene.tick()
    with pytest.raises(UnanswerableError, match="no vCPU in this trace"):
        scene.timeline()


def test_a_thread_outside_the_table_is_no_vcpu() -> None:
    scene = Scene()
    scene.event("kvm:kvm_entry", 0, 100, vcpu_id=0)
    events = scene.events()
    tids = events.tid.repeat(5)
    tids[:] = (100, 99, 101, -1, 2**31 - 1)
    assert find_vcpus(events).of_tid(tids).tolist() == [0, -1, -1, -1, -1]
