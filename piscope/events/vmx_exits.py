"""Why a VMX guest stopped running: the basic exit reasons, by number and by name.

The numbers are architecture (Intel SDM, volume 3, appendix C), the names KVM's own:
they are what a `kvm_exit` prints after "reason".

To be read beside `arch/x86/include/uapi/asm/vmx.h`; this table is that of Linux 6.18
(2025-11-30). Where a trace carries a table of its own (`kvm_exit`'s print fmt), its
names are the ones to show. Constants only: nothing is imported but `enum`, so any
stage may use it.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = (
    "BASIC_REASON_MASK",
    "FAILED_VMENTRY",
    "FORMER_NAMES",
    "REASON_FLAGS",
    "VmxExit",
)

BASIC_REASON_MASK = 0xFFFF
"""Bits of a VMCS exit reason that hold the basic reason; flags lie above."""

FAILED_VMENTRY = 0x80000000
"""VMX_EXIT_REASONS_FAILED_VMENTRY: the guest was never entered."""

REASON_FLAGS = {"FAILED_VMENTRY": FAILED_VMENTRY}
"""VMX_EXIT_REASON_FLAGS: what `kvm_exit` prints after the name, flag by flag."""


class VmxExit(IntEnum):
    """A basic exit reason; the member's name is what the kernel prints."""

    EXCEPTION_NMI = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    INIT_SIGNAL = 3
    SIPI_SIGNAL = 4
    OTHER_SMI = 6
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    TASK_SWITCH = 9
    CPUID = 10
    HLT = 12
    INVD = 13
    INVLPG = 14
    RDPMC = 15
    RDTSC = 16
    VMCALL = 18
    VMCLEAR = 19
    VMLAUNCH = 20
    VMPTRLD = 21
    VMPTRST = 22
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    VMOFF = 26
    VMON = 27
    CR_ACCESS = 28
    DR_ACCESS = 29
    IO_INSTRUCTION = 30
    MSR_READ = 31
    MSR_WRITE = 32
    INVALID_STATE = 33
    MSR_LOAD_FAIL = 34
    MWAIT_INSTRUCTION = 36
    MONITOR_TRAP_FLAG = 37
    MONITOR_INSTRUCTION = 39
    PAUSE_INSTRUCTION = 40
    MCE_DURING_VMENTRY = 41
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    EOI_INDUCED = 45
    GDTR_IDTR = 46
    LDTR_TR = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIG = 49
    INVEPT = 50
    RDTSCP = 51
    PREEMPTION_TIMER = 52
    INVVPID = 53
    WBINVD = 54
    XSETBV = 55
    APIC_WRITE = 56
    RDRAND = 57
    INVPCID = 58
    VMFUNC = 59
    ENCLS = 60
    RDSEED = 61
    PML_FULL = 62
    XSAVES = 63
    XRSTORS = 64
    UMWAIT = 67
    TPAUSE = 68
    BUS_LOCK = 74
    NOTIFY = 75
    SEAMCALL = 76
    TDCALL = 77
    MSR_READ_IMM = 84
    MSR_WRITE_IMM = 85


FORMER_NAMES = {
    # Until "KVM: VMX: Rename INTERRUPT_PENDING to INTERRUPT_WINDOW" (v5.6); the
    # kvm plugin of libtraceevent still prints it.
    "PENDING_INTERRUPT": VmxExit.INTERRUPT_WINDOW,
}
"""Names that other kernels and tools print for the same reasons."""
