"""The smallest KVM guest: one vCPU in real mode that halts, run some times.

Straight on /dev/kvm, so that a host test needs no QEMU.
Source: Documentation/virt/kvm/api.rst, include/uapi/linux/kvm.h (x86-64).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from pathlib import Path

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84

KVM_EXIT_HLT = 5
HLT = b"\xf4"
PAGE_BYTES = 4096
SREGS_BYTES = 0x138  # struct kvm_sregs; cs is its first member: base, limit, selector


def run_guest(times: int) -> list[int]:
    """Run a guest that halts at once, `times` times; gives the exit reasons.

    Raises OSError where /dev/kvm can't be used.
    """
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, PAGE_BYTES)
    memory[0 : len(HLT)] = HLT
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("=IIQQQ", 0, 0, 0, PAGE_BYTES, address)
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    sregs = bytearray(fcntl.ioctl(vcpu, KVM_GET_SREGS, bytes(SREGS_BYTES)))
    struct.pack_into("=QIH", sregs, 0, 0, 0xFFFF, 0)  # cs: base 0, selector 0
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    reasons = []
    for _ in range(times):
        # struct kvm_regs: 16 general registers, rip 0, rflags with its fixed bit
        fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("=18Q", *[0] * 16, 0, 2))
        fcntl.ioctl(vcpu, KVM_RUN, 0)
        reasons.append(struct.unpack_from("=I", run, 8)[0])  # kvm_run.exit_reason
    run.close()
    for descriptor in (vcpu, vm, kvm):
        os.close(descriptor)
    return reasons


def can_run_guests() -> bool:
    """Whether this process may use /dev/kvm."""
    return Path("/dev/kvm").exists() and os.access("/dev/kvm", os.R_OK | os.W_OK)
