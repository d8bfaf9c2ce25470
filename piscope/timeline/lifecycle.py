"""The life of one vCPU thread as a state machine over its events: the reference.

`step` says what each event means in each state. It is written to be read beside
virt/kvm/kvm_main.c (kvm_sched_in, kvm_sched_out, kvm_vcpu_halt) and
arch/x86/kvm/x86.c (kvm_arch_vcpu_ioctl_run, vcpu_run). The fast walk is derived from
it by calling it on every state and every mark (`tables`).

                 FPU_LOAD              ENTRY
    USERSPACE ------------->  HOST  ----------->  GUEST
        ^  <-------------   |  |  ^ <-----------
        |    FPU_UNLOAD     |  |  |     EXIT
     OUT|IN          OUT_*  |  |  | IN, WAKEUP
        v                   v  |  |
    USERSPACE_OFF   PREEMPTED, ASLEEP          HALT -- OUT_BLOCK --> BLOCKED

A thread that is switched out in userspace is already put: nothing happens to its
descriptor. Loads and puts by ioctls other than KVM_RUN leave no stock event; with
probes on vmx_vcpu_pi_load and vmx_vcpu_pi_put they are seen.
"""

from __future__ import annotations

import functools
from enum import IntEnum, IntFlag

import numpy as np
import numpy.typing as npt

__all__ = ("LOADED", "Act", "Life", "Mark", "step", "tables", "walk")


class Life(IntEnum):
    """Where a vCPU thread is."""

    UNKNOWN = 0
    USERSPACE = 1
    USERSPACE_OFF = 2  # switched out (or preempted) in userspace
    LEAVING = 3  # between kvm_fpu load=0 and kvm_userspace_exit: put in here
    IOCTL = 4  # loaded, seen by a probe only: KVM_RUN's start, or another ioctl
    HOST = 5  # loaded, in KVM
    GUEST = 6
    HALT = 7  # loaded, polling before it blocks
    PREEMPTED = 8
    PREEMPTED_HALT = 9  # switched out runnable inside a halt: polling, or blocking
    BLOCKED = 10
    ASLEEP = 11  # asleep in KVM: a fault-in, a mutex, ...
    DEAD = 12


LOADED = frozenset({Life.IOCTL, Life.HOST, Life.GUEST, Life.HALT})


class Mark(IntEnum):
    """What an event says about its thread."""

    ENTRY = 0
    EXIT = 1
    EXIT_HALT = 2  # a VM-exit after which the vCPU halts
    FPU_LOAD = 3
    FPU_LOAD_HALT = 4  # KVM_RUN of a vCPU that is still halted
    FPU_UNLOAD = 5
    USERSPACE_EXIT = 6
    WAKEUP = 7  # kvm_vcpu_wakeup: the end of a halt
    OUT_RUNNABLE = 8
    OUT_RUNNABLE_HALT = 9
    OUT_SLEEP = 10
    OUT_BLOCK = 11
    OUT_DEAD = 12
    IN = 13
    IN_KVM = 14  # an event that KVM emits for a loaded vCPU only
    PI_LOAD = 15
    PI_PUT = 16
    LOST = 17  # events that may be the thread's were lost


class Act(IntFlag):
    """What happens to the vCPU's descriptor, in this order: SYNC, PUT or LOAD, SYNC."""

    NONE = 0
    LOAD = 1
    PUT = 2
    ENTER = 4
    EXIT = 8
    SYNC_BEFORE = 16  # kvm_vcpu_check_block before it sleeps
    SYNC_AFTER = 32
    UNSURE = 64  # it happened, but not surely here or not surely like this


_OUT = {
    Mark.OUT_RUNNABLE: Life.PREEMPTED,
    Mark.OUT_RUNNABLE_HALT: Life.PREEMPTED_HALT,
    Mark.OUT_SLEEP: Life.ASLEEP,
    Mark.OUT_BLOCK: Life.BLOCKED,
    Mark.OUT_DEAD: Life.DEAD,
}
_USER = frozenset({Life.USERSPACE, Life.LEAVING, Life.USERSPACE_OFF})
_OFF = frozenset(
    {Life.PREEMPTED, Life.PREEMPTED_HALT, Life.BLOCKED, Life.ASLEEP, Life.DEAD}
)


def step(life: Life, mark: Mark, probed: bool) -> tuple[Life, Act]:
    """One event: the state it leaves, and what it did to the descriptor.

    `probed`: loads and puts are seen by probes (PI_LOAD, PI_PUT), and nothing else
    may make one. Without probes they follow from the events around them.
    """
    after, act = _step(life, mark)
    if probed and mark not in (Mark.PI_LOAD, Mark.PI_PUT):
        act &= ~(Act.LOAD | Act.PUT)
        if mark == Mark.IN:  # the sync follows the load that the probe sees
            act &= ~Act.SYNC_AFTER
    return after, act


def _step(life: Life, mark: Mark) -> tuple[Life, Act]:
    match mark:
        case Mark.ENTRY:
            if life in (Life.HOST, Life.IOCTL):
                return Life.GUEST, Act.ENTER
            if life == Life.HALT:  # the halt's end was not traced
                return Life.GUEST, Act.ENTER
            if life == Life.GUEST:  # an exit was lost, or is not traced
                return Life.GUEST, Act.ENTER | Act.UNSURE
            if life == Life.UNKNOWN:
                return Life.GUEST, Act.ENTER | Act.UNSURE
            # KVM_RUN without kvm_fpu: loaded some time since it was last seen
            return Life.GUEST, Act.LOAD | Act.ENTER | Act.UNSURE
        case Mark.EXIT | Mark.EXIT_HALT:
            after = Life.HALT if mark == Mark.EXIT_HALT else Life.HOST
            if life in (Life.GUEST, Life.UNKNOWN):
                return after, Act.EXIT
            # Two exits in a row: up to 5.10 a fast path re-enters without a
            # kvm_entry event. Later it means that the entry was lost.
            if life in LOADED:
                return after, Act.ENTER | Act.EXIT | Act.UNSURE
            return after, Act.LOAD | Act.ENTER | Act.EXIT | Act.UNSURE
        case Mark.FPU_LOAD | Mark.FPU_LOAD_HALT:
            after = Life.HALT if mark == Mark.FPU_LOAD_HALT else Life.HOST
            if life in LOADED:
                return after, Act.NONE
            unsure = Act.NONE if life in _USER else Act.UNSURE
            return after, Act.LOAD | unsure
        case Mark.FPU_UNLOAD:
            if life in _USER or life in _OFF:
                return Life.LEAVING, Act.LOAD | Act.PUT | Act.UNSURE
            return Life.LEAVING, Act.PUT
        case Mark.USERSPACE_EXIT:
            if life in _USER:
                return Life.USERSPACE, Act.NONE
            if life in LOADED:  # no kvm_fpu: put between the last event and here
                return Life.USERSPACE, Act.PUT
            return Life.USERSPACE, Act.PUT | Act.UNSURE
        case Mark.WAKEUP:
            if life in LOADED or life == Life.UNKNOWN:
                return Life.HOST, Act.SYNC_AFTER
            return Life.HOST, Act.LOAD | Act.SYNC_AFTER | Act.UNSURE
        case Mark.IN_KVM:
            if life in LOADED:
                return life, Act.NONE
            if life == Life.UNKNOWN:
                return Life.HOST, Act.NONE
            return life, Act.NONE
        case Mark.IN:
            if life in (Life.BLOCKED, Life.PREEMPTED_HALT):
                return Life.HALT, Act.LOAD | Act.SYNC_AFTER
            if life in (Life.PREEMPTED, Life.ASLEEP):
                return Life.HOST, Act.LOAD
            if life == Life.USERSPACE_OFF:
                return Life.USERSPACE, Act.NONE
            if life in (Life.USERSPACE, Life.LEAVING):
                return life, Act.NONE
            return Life.UNKNOWN, Act.NONE
        case Mark.PI_LOAD:
            if life in (Life.USERSPACE, Life.LEAVING, Life.UNKNOWN):
                return Life.IOCTL, Act.LOAD
            if life == Life.HALT:
                return Life.HALT, Act.LOAD | Act.SYNC_AFTER
            if life in LOADED:
                return life, Act.LOAD
            if life == Life.DEAD:  # by the thread that destroys the VM
                return life, Act.LOAD
            return Life.IOCTL, Act.LOAD
        case Mark.PI_PUT:
            if life == Life.IOCTL:
                return Life.USERSPACE, Act.PUT
            if life in LOADED:
                return Life.LEAVING, Act.PUT
            return life, Act.PUT
        case Mark.LOST:
            return Life.UNKNOWN, Act.NONE
        case _:
            return _switch_out(life, mark)


def _switch_out(life: Life, mark: Mark) -> tuple[Life, Act]:
    """kvm_sched_out, if the vCPU is loaded; nothing for the descriptor otherwise."""
    after = _OUT[mark]
    halted = mark in (Mark.OUT_BLOCK, Mark.OUT_RUNNABLE_HALT)
    if life in LOADED:
        act = Act.PUT
        if mark == Mark.OUT_BLOCK:
            act |= Act.SYNC_BEFORE
        if mark == Mark.OUT_RUNNABLE_HALT:
            # polling, or already waiting: kvm_vcpu_is_blocking() is not traced
            act |= Act.UNSURE
        return after, act
    if mark == Mark.OUT_DEAD:
        return after, Act.NONE
    if life == Life.LEAVING:
        # Switched out between kvm_fpu and kvm_userspace_exit: just before the put,
        # or just after it. The put was counted at kvm_fpu.
        return Life.USERSPACE_OFF, Act.UNSURE
    if life in (Life.USERSPACE, Life.USERSPACE_OFF):
        return Life.USERSPACE_OFF, Act.NONE
    if halted:  # whatever came before, it is inside KVM_RUN now
        return after, Act.PUT | Act.UNSURE
    return Life.UNKNOWN, Act.NONE


@functools.cache
def tables(
    probed: bool,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """`step` on every state and mark: (next state, Act), each uint8[states, marks]."""
    after = np.zeros((len(Life), len(Mark)), np.uint8)
    act = np.zeros((len(Life), len(Mark)), np.uint8)
    for life in Life:
        for mark in Mark:
            after[life, mark], act[life, mark] = step(life, mark, probed)
    return after, act


# Longer chains of marks without a reset are walked one by one.
_TURNS = 64


def walk(
    marks: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    after: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """The state before each mark: uint8[n].

    Each lane (from `starts[i]` to the next) begins in UNKNOWN. Most marks lead to the
    same state from everywhere (an ENTRY), so what follows one is known at once; the
    others are resolved in turns, each one mark further from a known one.
    """
    n = len(marks)
    before = np.zeros(n, np.uint8)
    if n == 0:
        return before
    constant = (after == after[0]).all(axis=0)
    known = np.empty(n, np.bool_)
    known[0] = True
    known[1:] = constant[marks[:-1]]
    before[1:] = after[0][marks[:-1]]
    heads = starts[starts < n]
    known[heads], before[heads] = True, 0
    open_ = np.flatnonzero(~known)
    for _ in range(_TURNS):
        if not len(open_):
            return before
        ready = known[open_ - 1]
        at = open_[ready]
        before[at] = after[before[at - 1], marks[at - 1]]
        known[at] = True
        open_ = open_[~ready]
    table = [bytes(row) for row in after]
    for i in open_.tolist():
        before[i] = table[before[i - 1]][marks[i - 1]]
    return before
