"""Operations in, states and effects out, in the form of the conformance files.

A line is a JSON object: an operation and its arguments. What comes out is the same
object with what the operation left, so that a conformance file is its own test (keys
of the input that are results are ignored).

    {"op":"load","vcpu":0,"cpu":1}
    {"op":"load","vcpu":0,"cpu":1,"pid":{"pir":[],"on":0,"sn":0,"nv":242,"ndst":1}, ...}

To be read beside tests/data/conformance/README.md. Unlike there, `post` also knows the
agent "ipiv" and "urgent":true (for "vtd"), and legacy policies the operations
`pre_block` (vcpu, irqs_blocked) and `post_block` (vcpu).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from piscope.errors import PiscopeError
from piscope.model.descriptor import (
    Mode,
    Put,
    Step,
    Vcpu,
    pi_post_block,
    pi_pre_block,
    pi_wakeup_handler,
    vmx_vcpu_pi_load,
    vmx_vcpu_pi_put,
)
from piscope.model.policy import DEFAULT_PLATFORM, Platform, Policy
from piscope.model.posting import (
    post_by_iommu,
    post_by_ipi_virtualization,
    process_notification,
    vcpu_enter_guest,
    vcpu_outside_guest,
    vm_exit,
    vmx_deliver_posted_interrupt,
    vmx_sync_pir_to_irr,
)

__all__ = ("MAX_LINE_CHARS", "OPERATIONS", "OperationError", "Runner", "run")

# The widths of the kernel's own numbers; PIR has 256 bits.
_MAX_CPU = _MAX_VCPU = (1 << 31) - 1
_MAX_VECTOR = 255

# A line of an operation has some hundred characters.
MAX_LINE_CHARS = 1 << 20


class OperationError(PiscopeError):
    """An operation that is not one, or that is impossible in the vCPU's state."""


class Runner:
    """Some vCPUs of one host, fresh until an operation names them."""

    def __init__(self, policy: Policy, platform: Platform = DEFAULT_PLATFORM) -> None:
        self.policy = policy
        self.platform = platform
        self.vcpus: dict[int, Vcpu] = {}
        # Of each pCPU, its wakeup list; the kernel adds at the tail.
        self.wakeup_lists: dict[int, list[int]] = {}

    def run(self, operation: Mapping[str, Any]) -> dict[str, Any]:
        """One operation's arguments, and what it left.

        Raises OperationError for what is no operation, or not possible now.
        """
        op = operation.get("op")
        result: dict[str, Any] = {"op": op}
        if op == "wakeup_irq":  # the one that concerns a pCPU, not a vCPU
            cpu = _number(operation, "cpu", _MAX_CPU)
            woken = self._wakeup_irq(cpu)
            effects = [{"effect": "wake", "vcpu": vcpu} for vcpu in woken]
            return result | {"cpu": cpu, "effects": effects}

        if not isinstance(op, str) or op not in OPERATIONS:
            known = ", ".join([*OPERATIONS, "wakeup_irq"])
            raise OperationError(f"op {_shown(op)}: expected one of {known}")
        arguments, perform = OPERATIONS[op]
        vcpu = _number(operation, "vcpu", _MAX_VCPU)
        given = {name: read(operation, name) for name, read in arguments.items()}
        # The key order of the conformance files: agent before vcpu.
        if "agent" in given:
            result["agent"] = given["agent"]
        result["vcpu"] = vcpu
        result |= {k: v for k, v in given.items() if v is not None}
        step = perform(self, self.vcpus.get(vcpu, Vcpu()), given)
        self._store(vcpu, step.vcpu)
        return result | _left(vcpu, step)

    def _store(self, number: int, vcpu: Vcpu) -> None:
        before = self.vcpus.get(number, Vcpu()).wakeup_cpu
        if before != vcpu.wakeup_cpu:
            if before is not None:
                self.wakeup_lists[before].remove(number)
            if vcpu.wakeup_cpu is not None:
                self.wakeup_lists.setdefault(vcpu.wakeup_cpu, []).append(number)
        self.vcpus[number] = vcpu

    def _wakeup_irq(self, cpu: int) -> tuple[int, ...]:
        listed = self.wakeup_lists.get(cpu, [])
        return pi_wakeup_handler((number, self.vcpus[number]) for number in listed)


def _left(number: int, step: Step) -> dict[str, Any]:
    pi = step.vcpu.pi
    return {
        "pid": {
            "pir": _vectors(pi.pir),
            "on": int(pi.on),
            "sn": int(pi.sn),
            "nv": pi.nv,
            "ndst": pi.ndst,
        },
        "virr": _vectors(step.vcpu.virr),
        "wakeup_list": step.vcpu.wakeup_cpu,
        "pir_scans": step.pir_scans,
        "list_locks": step.list_locks,
        "effects": [
            {"effect": effect.kind, "vcpu": number}
            if effect.kind == "wake"
            else {"effect": effect.kind, "vector": effect.vector, "cpu": effect.cpu}
            for effect in step.effects
        ],
    }


def _vectors(bits: int) -> list[int]:
    return [vector for vector in range(256) if bits >> vector & 1]


# Arguments ---------------------------------------------------------------------


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _number(operation: Mapping[str, Any], name: str, limit: int) -> int:
    value = operation.get(name)
    if type(value) is not int or not 0 <= value <= limit:
        raise OperationError(
            f"{name} {_shown(value)}: expected an integer from 0 to {limit}"
        )
    return value


def _cpu(operation: Mapping[str, Any], name: str) -> int:
    return _number(operation, name, _MAX_CPU)


def _vector(operation: Mapping[str, Any], name: str) -> int:
    return _number(operation, name, _MAX_VECTOR)


def _flag(operation: Mapping[str, Any], name: str) -> bool:
    value = operation.get(name)
    if type(value) is not bool:
        raise OperationError(f"{name} {_shown(value)}: expected true or false")
    return value


def _flag_or_none(operation: Mapping[str, Any], name: str) -> bool | None:
    return _flag(operation, name) if name in operation else None


def _agent(operation: Mapping[str, Any], name: str) -> str:
    value = operation.get(name)
    if value not in ("vtd", "ipiv", "kvm"):
        raise OperationError(f"{name} {_shown(value)}: expected vtd, ipiv or kvm")
    return str(value)


# Operations --------------------------------------------------------------------

_Given = Mapping[str, Any]


def _need(vcpu: Vcpu, *, loaded: bool = True, in_guest: bool = False) -> None:
    if vcpu.loaded != loaded:
        raise OperationError(
            "the vCPU is loaded already" if vcpu.loaded else "not loaded"
        )
    if (vcpu.mode is Mode.IN_GUEST_MODE) != in_guest:
        raise OperationError("not in guest mode" if in_guest else "still in guest mode")


def _load(runner: Runner, vcpu: Vcpu, given: _Given) -> Step:
    _need(vcpu, loaded=False)
    return vmx_vcpu_pi_load(vcpu, given["cpu"], runner.policy, runner.platform)


def _put(runner: Runner, vcpu: Vcpu, given: _Given) -> Step:
    _need(vcpu)
    return vmx_vcpu_pi_put(vcpu, Put(**given), runner.policy, runner.platform)


def _post(_runner: Runner, vcpu: Vcpu, given: _Given) -> Step:
    agent, vector, urgent = given["agent"], given["vector"], given["urgent"]
    if agent == "vtd":
        return post_by_iommu(vcpu, vector, urgent=bool(urgent))
    if urgent is not None:
        raise OperationError("urgent: a bit of VT-d's IRTE, of no use to another agent")
    if agent == "ipiv":
        return post_by_ipi_virtualization(vcpu, vector)
    return vmx_deliver_posted_interrupt(vcpu, vector)


def _enter(runner: Runner, vcpu: Vcpu, _given: _Given) -> Step:
    _need(vcpu)
    if vcpu.wakeup_cpu is not None:
        raise OperationError("on a wakeup list: post_block comes before enter")
    return vcpu_enter_guest(vcpu, runner.policy, runner.platform)


def _exit(runner: Runner, vcpu: Vcpu, _given: _Given) -> Step:
    _need(vcpu, in_guest=True)
    left = vm_exit(vcpu, runner.policy, runner.platform)
    outside = vcpu_outside_guest(left.vcpu, runner.policy, runner.platform)
    return Step(outside.vcpu, pir_scans=left.pir_scans + outside.pir_scans)


def _sync(runner: Runner, vcpu: Vcpu, _given: _Given) -> Step:
    _need(vcpu)
    return vmx_sync_pir_to_irr(vcpu, runner.policy, runner.platform)


def _deliver(_runner: Runner, vcpu: Vcpu, _given: _Given) -> Step:
    _need(vcpu, in_guest=True)
    return process_notification(vcpu)


def _only_legacy(runner: Runner) -> None:
    if runner.policy.block_in_put:
        raise OperationError(f"{runner.policy.name} arms the wakeup vector in put")


def _pre_block(runner: Runner, vcpu: Vcpu, given: _Given) -> Step:
    _only_legacy(runner)
    _need(vcpu)
    if vcpu.wakeup_cpu is not None:
        raise OperationError("on a wakeup list already")
    return pi_pre_block(vcpu, given["irqs_blocked"], runner.policy, runner.platform)[0]


def _post_block(runner: Runner, vcpu: Vcpu, _given: _Given) -> Step:
    _only_legacy(runner)
    _need(vcpu)
    return pi_post_block(vcpu)


_Read = Callable[[Mapping[str, Any], str], Any]
_Perform = Callable[[Runner, Vcpu, _Given], Step]


OPERATIONS: Mapping[str, tuple[Mapping[str, _Read], _Perform]] = {
    "load": ({"cpu": _cpu}, _load),
    "put": (
        {"preempted": _flag, "blocking": _flag, "irqs_blocked": _flag},
        _put,
    ),
    "post": ({"agent": _agent, "vector": _vector, "urgent": _flag_or_none}, _post),
    "enter": ({}, _enter),
    "exit": ({}, _exit),
    "sync": ({}, _sync),
    "deliver": ({}, _deliver),
    "pre_block": ({"irqs_blocked": _flag}, _pre_block),
    "post_block": ({}, _post_block),
}


# Lines -------------------------------------------------------------------------


def run(
    policy: Policy,
    lines: Iterable[str],
    platform: Platform = DEFAULT_PLATFORM,
    path: str | None = None,
) -> Iterator[str]:
    """Perform operations from fresh descriptors on, one JSON object a line.

    Each operation is given back, with what it left, before the next line is read.
    Empty lines are passed over.

    Raises OperationError, naming `path` and the line, for a line that is no
    operation, and for one that is impossible in the order of the lines.
    """
    runner = Runner(policy, platform)
    for place, line in enumerate(lines, 1):
        if len(line) <= MAX_LINE_CHARS and not line.strip():
            continue
        try:
            result = runner.run(_decode(line))
        except OperationError as error:
            raise OperationError(error.message, path=path, line=place) from None
        yield json.dumps(result, separators=(",", ":"))


def _decode(line: str) -> Mapping[str, Any]:
    if len(line) > MAX_LINE_CHARS:
        raise OperationError(f"longer than {MAX_LINE_CHARS} characters")
    try:
        operation = json.loads(line)
    except (ValueError, RecursionError) as error:
        # ValueError: also an integer of more digits than Python converts.
        why = error.msg if isinstance(error, json.JSONDecodeError) else "out of range"
        raise OperationError(f"not JSON ({why}): expected one object a line") from None
    if not isinstance(operation, dict):
        raise OperationError(f"JSON {type(operation).__name__}: expected an object")
    return operation
