"""What the model allows between two readings of a descriptor: a set of states.

Nothing of a descriptor's behavior is stated here: every step is made of calls of
model.descriptor and model.posting, on each state that is possible so far. Posts that
leave no event may come at any instant, so what the model allows is a set of states.

    load    clear SN and the rest of pi_load | scan PIR, with posts around both
    loaded  syncs, entries, exits, posts, blocking up to 5.16, a LAPIC reset: any
            number, in any order
    put     pi_put, with the guest's interrupts blocked and not, posts around it
    away    posts

PIR stands in three bits here: what was in it, what KVM posted, what else was posted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache, lru_cache

from piscope.model.descriptor import (
    POSTED_INTR_WAKEUP_VECTOR,
    Mode,
    PiDesc,
    Put,
    Vcpu,
    after_clear_sn,
    pi_post_block,
    pi_pre_block,
    vmx_vcpu_pi_load_clear_sn,
    vmx_vcpu_pi_put,
    with_pi,
)
from piscope.model.policy import Platform, Policy
from piscope.model.posting import (
    pi_apicv_pre_state_restore,
    post_by_iommu,
    process_notification,
    vcpu_enter_guest,
    vcpu_outside_guest,
    vm_exit,
    vmx_deliver_posted_interrupt,
    vmx_sync_pir_to_irr,
)
from piscope.verify.observations import UNREAD
from piscope.verify.probe_names import Point
from piscope.verify.transitions import (
    KVM_MUST,
    KVM_NONE,
    NDST_HERE,
    NDST_LAST,
    OBSERVED,
    Case,
    StepName,
)

__all__ = (
    "KVMS",
    "OTHERS",
    "By",
    "Kernel",
    "States",
    "allowed",
    "states_after_posts",
)

_WAS, KVMS, OTHERS = 0, 1, 2
"""Vectors that stand for what was in PIR, what KVM posted, and what others did."""

_F1 = POSTED_INTR_WAKEUP_VECTOR

States = frozenset[Vcpu]


class By(IntEnum):
    """What a transition needs to agree with the model; the least is taken.

    MODEL     nothing: the model's own step, with KVM's posts that surely were there
    KVM       a post by KVM that the trace holds, or may lack
    HARDWARE  a post by VT-d or IPI virtualization, which leaves no event
    BETWEEN   a post between the probe's two reads (ON, then PIR), or a reading
              between KVM's two writes (PIR, then ON)
    NOTHING   it disagrees
    """

    MODEL = 0
    KVM = 1
    HARDWARE = 2
    BETWEEN = 3
    NOTHING = 4


@dataclass(frozen=True, slots=True)
class Kernel:
    """A policy on a platform: what is held against the observations.

    hardware   posts without an event are possible
    ctl_first  the probes read ON before PIR; None: not known
    """

    policy: Policy
    platform: Platform
    hardware: bool
    ctl_first: bool | None = True


def allowed(case: Case, kernel: Kernel, by: By) -> States:
    """Every state in which the descriptor may be at the end of a case."""
    return _allowed(case._replace(**dict.fromkeys(OBSERVED, 0)), kernel, by)


def states_after_posts(vcpu: Vcpu, case: Case, kernel: Kernel) -> States:
    """What posts make of a state, of any origin that the case has room for."""
    posts = _Posts(kernel.hardware, case.kvm != KVM_NONE, must=False)
    return _posted(frozenset((vcpu,)), posts)


@lru_cache(maxsize=1 << 16)
def _allowed(case: Case, kernel: Kernel, by: By) -> States:
    posts = _Posts(
        hardware=by >= By.HARDWARE and kernel.hardware,
        kvm=by >= By.KVM and case.kvm != KVM_NONE,
        must=case.kvm == KVM_MUST,
    )
    states = frozenset(_beginnings(case, posts))
    for i, step in enumerate(case.steps):
        states = _after(step, states, case, kernel, posts, first=i == 0)
    return states


@dataclass(frozen=True, slots=True)
class _Posts:
    hardware: bool
    kvm: bool
    must: bool


def _beginnings(case: Case, posts: _Posts) -> Iterable[Vcpu]:
    begin = Point(case.begin)
    # vcpu->cpu, in the names of NDST_*: where it is loaded, or was last
    cpus: tuple[int | None, ...] = (NDST_HERE,)
    if "load" in case.steps:
        cpus = {1: (NDST_HERE,), 0: (NDST_LAST,), UNREAD: (NDST_HERE, NDST_LAST)}[
            case.same_cpu
        ]
    # without PIR's reading it may hold something
    pirs: tuple[int, ...] = (1 << _WAS,) if case.pir else (0,)
    if not case.pir_read:
        pirs = (0, 1 << _WAS)
    loaded = begin in (Point.LOAD_DONE, Point.SYNC, Point.PUT)
    for cpu in cpus:
        for pir in pirs:
            pi = PiDesc(pir, bool(case.on), bool(case.sn), case.nv, case.ndst)
            vcpu = Vcpu(pi, cpu=cpu, loaded=loaded)
            if case.nv == _F1:
                vcpu = replace(vcpu, wakeup_cpu=cpu)
            yield vcpu
            # a poster that has set PIR, and ON not yet
            if pir and not case.on and not case.sn and (posts.kvm or posts.hardware):
                yield with_pi(vcpu, on=True)


def _after(
    step: StepName,
    states: States,
    case: Case,
    kernel: Kernel,
    posts: _Posts,
    first: bool,
) -> States:
    if step == "load":
        return _loads(states, kernel, posts)
    if step == "put":
        whys = _whys(case) if first else _ANY_PUT
        return _puts(states, whys, kernel, posts)
    if step == "loaded":
        return _while_loaded(states, kernel, bool(case.fresh))
    away = _posted(states, posts)
    return away | _posted(_created(away), posts) if case.fresh else away


_ANY_PUT = frozenset(
    Put(preempted, blocking, irqs_blocked)
    for preempted in (False, True)
    for blocking in (False, True)
    for irqs_blocked in (False, True)
)


def _whys(case: Case) -> frozenset[Put]:
    """The puts that fit the flags read; the guest's IF is never read."""
    return frozenset(
        put
        for put in _ANY_PUT
        if case.preempted in (UNREAD, put.preempted)
        and case.blocking in (UNREAD, put.blocking)
        and (put.blocking or not put.irqs_blocked)
    )


@cache
def _loads(states: States, kernel: Kernel, posts: _Posts) -> States:
    result: set[Vcpu] = set()
    for vcpu in _posted(states, posts):
        step, scan = vmx_vcpu_pi_load_clear_sn(
            vcpu, NDST_HERE, kernel.policy, kernel.platform
        )
        cleared = _posted(frozenset((step.vcpu,)), posts)
        if scan:
            cleared = frozenset(after_clear_sn(v).vcpu for v in cleared)
        result |= cleared
    return _posted(frozenset(result), posts)


@cache
def _puts(
    states: States, whys: frozenset[Put], kernel: Kernel, posts: _Posts
) -> States:
    policy, platform = kernel.policy, kernel.platform
    result: set[Vcpu] = set()
    for vcpu in _posted(states, posts):
        for why in whys:
            ready = vcpu
            if not policy.block_in_put and why.blocking and vcpu.wakeup_cpu is None:
                # up to 5.16 none blocks that has not been through it
                ready = pi_pre_block(vcpu, why.irqs_blocked, policy, platform)[0].vcpu
            result.add(vmx_vcpu_pi_put(ready, why, policy, platform).vcpu)
    return _posted(frozenset(result), posts)


@cache
def _posted(states: States, posts: _Posts) -> States:
    """The states after any number of posts, at least one of KVM's if it must be."""
    if not posts.must:
        return _closed(states, _posters(posts))
    before = _closed(states, _posters(posts))
    after = frozenset(vmx_deliver_posted_interrupt(v, KVMS).vcpu for v in before)
    # which step it came in is open: one without it may precede or follow
    return states | _closed(after, _posters(posts))


def _posters(posts: _Posts) -> tuple[Callable[[Vcpu], Iterable[Vcpu]], ...]:
    posters: list[Callable[[Vcpu], Iterable[Vcpu]]] = []
    if posts.kvm:
        posters.append(_post_by_kvm)
    if posts.hardware:
        posters.append(_post_by_hardware)
    return tuple(posters)


def _post_by_kvm(vcpu: Vcpu) -> Iterable[Vcpu]:
    yield vmx_deliver_posted_interrupt(vcpu, KVMS).vcpu
    yield vmx_deliver_posted_interrupt(vcpu, _WAS).vcpu if _in_pir(vcpu) else vcpu


def _post_by_hardware(vcpu: Vcpu) -> Iterable[Vcpu]:
    yield post_by_iommu(vcpu, OTHERS).vcpu
    yield post_by_iommu(vcpu, KVMS).vcpu
    yield post_by_iommu(vcpu, _WAS).vcpu if _in_pir(vcpu) else vcpu


def _in_pir(vcpu: Vcpu) -> bool:
    return bool(vcpu.pi.pir >> _WAS & 1)


def _closed(
    states: States, operations: Iterable[Callable[[Vcpu], Iterable[Vcpu]]]
) -> States:
    """The states that any number of operations, in any order, lead to."""
    found = set(states)
    open_ = list(states)
    while open_:
        vcpu = open_.pop()
        for operation in operations:
            for following in operation(vcpu):
                if following not in found:
                    found.add(following)
                    open_.append(following)
    return frozenset(found)


@cache
def _while_loaded(states: States, kernel: Kernel, fresh: bool) -> States:
    """Whatever happens to a loaded vCPU; what was in PIR may be anything then."""
    policy, platform = kernel.policy, kernel.platform

    def operate(vcpu: Vcpu) -> Iterable[Vcpu]:
        if vcpu.mode is Mode.IN_GUEST_MODE:
            steps = [
                process_notification(vcpu),
                vcpu_outside_guest(
                    vm_exit(vcpu, policy, platform).vcpu, policy, platform
                ),
            ]
        else:
            steps = [
                vmx_sync_pir_to_irr(vcpu, policy, platform),
                vcpu_enter_guest(vcpu, policy, platform),
                pi_apicv_pre_state_restore(vcpu),
            ]
            if not policy.block_in_put:
                steps.append(pi_post_block(vcpu))
                if vcpu.wakeup_cpu is None:
                    steps += [
                        pi_pre_block(vcpu, blocked, policy, platform)[0]
                        for blocked in (False, True)
                    ]
        steps += [
            post_by_iommu(vcpu, OTHERS),
            vmx_deliver_posted_interrupt(vcpu, KVMS),
        ]
        for step in steps:
            yield replace(step.vcpu, virr=0)
        if fresh:
            yield from _created(frozenset((vcpu,)))

    loaded = frozenset(replace(vcpu, loaded=True, cpu=NDST_HERE) for vcpu in states)
    found = _closed(loaded, (operate,))
    return frozenset(vcpu for vcpu in found if vcpu.mode is Mode.OUTSIDE_GUEST_MODE)


def _created(states: States) -> States:
    """A vCPU's creation: the descriptor as KVM initializes it, but for NDST.

    Source: vmx.c, __vmx_vcpu_reset (5.17+), vmx_create_vcpu (up to 5.16).
    """
    return frozenset(
        replace(vcpu, pi=PiDesc(ndst=vcpu.pi.ndst), wakeup_cpu=None) for vcpu in states
    )
