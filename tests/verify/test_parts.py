"""The parts of a verification: names, APIC ids, counters, the model's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piscope.errors import PiscopeError, TraceFormatError, UsageError
from piscope.interrupts import counted_between, read_tables
from piscope.model.policy import POLICIES
from piscope.sources.raw import Payload
from piscope.verify.allowed import By, Kernel
from piscope.verify.apic_ids import parse_apic_ids
from piscope.verify.finding import PLATFORMS
from piscope.verify.judge import judge
from piscope.verify.probe_names import (
    Point,
    ProbeNames,
    RenamedSource,
    point_of_event,
)
from piscope.verify.transitions import (
    KVM_MUST,
    KVM_NONE,
    KVM_POSSIBLE,
    NDST_HERE,
    Case,
    path,
)

F1, F2 = 0xF1, 0xF2


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("pi_load", Point.LOAD),
        ("vmx_vcpu_pi_load", Point.LOAD),
        ("p_vmx_vcpu_pi_load_0", Point.LOAD),
        ("vmx_vcpu_pi_load__entry", Point.LOAD),
        ("pi_load_done_0x61", Point.LOAD_DONE),
        ("r_vmx_vcpu_pi_load_0", Point.LOAD_DONE),
        ("vmx_vcpu_pi_put__return", Point.PUT_DONE),
        ("vmx_vcpu_pi_put__exit", Point.PUT_DONE),
        ("p_vmx_vcpu_pi_put", Point.PUT),
        ("sync_pir", Point.SYNC),
        ("p_vmx_sync_pir_to_irr_0", Point.SYNC),
        ("p_vmx_vcpu_pi_put_62", None),  # inside the function, who knows where
        ("vcpu_put", None),
        ("pi_wakeup", None),
    ],
)
def test_probes_are_recognized_by_name(name: str, point: Point | None) -> None:
    assert point_of_event(name) is point
    read_as = ProbeNames().event("any", name)
    assert point_of_event(read_as) is point


def test_a_named_probe_takes_the_place_of_the_recognized_one() -> None:
    names = ProbeNames({Point.PUT: "mine:other"})
    assert names.event("mine", "other") == "pi_put"
    assert names.event("pi", "other") == "other"
    assert point_of_event(names.event("pi", "pi_put")) is None
    assert names.event("pi", "pi_load") == "pi_load"


@pytest.mark.parametrize("argument", ["ctl", "ctl=", "=x", "what=x", "ctl=a,ctl=b"])
def test_arguments_that_make_no_sense_are_refused(argument: str) -> None:
    with pytest.raises(UsageError, match="--arg"):
        ProbeNames.of_options({}, [argument])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((7 | 5 << 64 | 3 << 255).to_bytes(33, "little")[:32], [7, 5, 0, 1 << 63]),
        ("{0x7,0x5,0x0,0x0}", [7, 5, 0, 0]),
        ("{7,0,5,0,0,0,0,0x1}", [7, 5, 0, 1 << 32]),
        ("{0x7,0x5,0x0}", None),
        ("{0x7,0x5,0x0,(fault)}", None),
        (b"short", None),
    ],
)
def test_pir_as_one_array(value: object, words: list[int] | None) -> None:
    column = np.empty(1, object)
    column[0] = value
    renamed = RenamedSource(None, ProbeNames())  # type: ignore[arg-type]
    payload = renamed._payload(Payload(np.zeros(1, np.int64), {"pir": column}))
    read = [int(payload.columns[f"pir{i}"][0]) for i in range(4)]
    assert read == (words or [0] * 4)
    assert ("pir0" in payload.valid) == (words is None)


def test_the_order_of_arguments_is_the_order_of_reads() -> None:
    one = np.zeros(1, np.uint64)
    for keys, first in ((("ctl", "pir0"), True), (("pir0", "ctl"), False)):
        renamed = RenamedSource(None, ProbeNames())  # type: ignore[arg-type]
        renamed._payload(Payload(np.zeros(1, np.int64), dict.fromkeys(keys, one)))
        assert renamed.ctl_first is first


def test_apic_ids_in_both_forms() -> None:
    assert parse_apic_ids("0=0,1=0x2", xapic=True).ndst == {0: 0, 1: 0x200}
    assert parse_apic_ids("0=0,1=300", xapic=False).ndst == {0: 0, 1: 300}
    for text in ("", "0", "0=x", "-1=0", "0=-1", "0=1,1=1", "99999999=1"):
        with pytest.raises(UsageError, match="--apic-ids"):
            parse_apic_ids(text, xapic=False)


@pytest.mark.parametrize(
    ("begin", "end", "steps"),
    [
        (Point.LOAD, Point.LOAD_DONE, ("load",)),
        (Point.LOAD_DONE, Point.PUT, ("loaded",)),
        (Point.PUT, Point.PUT_DONE, ("put",)),
        (Point.PUT_DONE, Point.LOAD, ("away",)),
        (Point.LOAD, Point.PUT, ("load", "loaded")),
        (Point.PUT, Point.LOAD, ("put", "away")),
        (Point.SYNC, Point.SYNC, ("loaded",)),
        (Point.LOAD, Point.SYNC, ("load", "loaded")),
        (Point.SYNC, Point.PUT, ("loaded",)),
        (Point.PUT, Point.PUT, ("put", "away", "load", "loaded")),
    ],
)
def test_the_steps_between_two_points(
    begin: Point, end: Point, steps: tuple[str, ...]
) -> None:
    assert path(begin, end) == steps


# --- what the model answers ------------------------------------------------------

_CASE = Case(
    begin=Point.PUT_DONE,
    end=Point.LOAD,
    preempted=-1,
    blocking=-1,
    same_cpu=1,
    fresh=0,
    kvm=KVM_NONE,
    pir_read=1,
    on=0,
    sn=1,
    nv=F2,
    ndst=NDST_HERE,
    pir=0,
    to_on=0,
    to_sn=1,
    to_nv=F2,
    to_ndst=NDST_HERE,
    lost=0,
    gained=0,
    gained_kvm=0,
    missed=0,
)
_ON = {"sn": 0, "to_sn": 0}
_PUT = {"begin": Point.PUT, "end": Point.PUT_DONE, "sn": 0, "preempted": 0}


@pytest.mark.parametrize(
    ("changes", "by", "wrong"),
    [
        # away with SN=1: hardware only fills PIR
        ({}, By.MODEL, ()),
        ({"gained": 1}, By.HARDWARE, ()),
        ({"gained": 1, "to_on": 1}, By.NOTHING, ("ON",)),
        ({"gained_kvm": 1, "to_on": 1, "kvm": KVM_POSSIBLE}, By.KVM, ()),
        ({"gained_kvm": 1, "to_on": 1, "kvm": KVM_MUST}, By.MODEL, ()),
        ({"kvm": KVM_MUST, "missed": 1}, By.NOTHING, ("PIR",)),
        ({"pir": 1, "lost": 1}, By.NOTHING, ("PIR",)),
        ({"to_nv": F1}, By.NOTHING, ("NV",)),
        # with SN=0 it sets ON; and a probe may read ON before it and PIR after it
        ({**_ON, "gained": 1, "to_on": 1}, By.HARDWARE, ()),
        ({**_ON, "gained": 1}, By.BETWEEN, ()),
        ({**_ON, "pir": 1, "on": 1, "gained": 1}, By.NOTHING, ("ON",)),
        # a put to userspace
        ({**_PUT, "blocking": 0}, By.MODEL, ()),
        ({**_PUT, "blocking": 0, "to_sn": 0}, By.NOTHING, ("SN",)),
        ({**_PUT, "blocking": 1, "to_sn": 0, "to_nv": F1}, By.MODEL, ()),
        ({**_PUT, "blocking": 1}, By.MODEL, ()),  # the guest's IF was 0
        # either would have been right
        ({**_PUT, "blocking": 1, "to_sn": 0}, By.NOTHING, ("SN", "NV")),
    ],
)
def test_the_model_s_answers(
    changes: dict[str, int], by: By, wrong: tuple[str, ...]
) -> None:
    kernel = Kernel(
        POLICIES["suppress-on-put"], PLATFORMS["needs-pi-wakeup"], hardware=True
    )
    answer = judge(_CASE._replace(**changes), kernel)
    assert (answer.by, answer.wrong) == (by, wrong)


def test_who_can_t_post_by_hardware_needs_kvm() -> None:
    kernel = Kernel(
        POLICIES["suppress-on-put"], PLATFORMS["no-pi-wakeup"], hardware=False
    )
    posted = _CASE._replace(**_ON, gained=1, to_on=1)
    assert judge(posted, kernel).by is By.NOTHING
    by_kvm = _CASE._replace(**_ON, gained_kvm=1, to_on=1, kvm=KVM_POSSIBLE)
    assert judge(by_kvm, kernel).by is By.KVM


def test_a_probe_that_reads_pir_first_tears_the_other_way() -> None:
    case = _CASE._replace(**_ON, to_on=1)  # ON, and PIR still empty
    for ctl_first, by in ((True, By.NOTHING), (False, By.BETWEEN), (None, By.BETWEEN)):
        kernel = Kernel(
            POLICIES["preempt-only"], PLATFORMS["needs-pi-wakeup"], True, ctl_first
        )
        assert judge(case, kernel).by is by


# --- /proc/interrupts ------------------------------------------------------------

TABLE = """           CPU0       CPU2
LOC:          1          2   Local timer interrupts
PIN:          {0}          {1}   Posted-interrupt notification event
PIW:         76         52   Posted-interrupt wakeup event
"""


def test_tables_are_found_in_any_text() -> None:
    tables = read_tables("# before\n" + TABLE.format(2, 1) + TABLE.format(5, 1), "m")
    assert [t["PIN"] for t in tables] == [{0: 2, 2: 1}, {0: 5, 2: 1}]
    assert counted_between(tables, "m").growth == {
        "PIN": {0: 3, 2: 0},
        "NPI": {},
        "PIW": {0: 0, 2: 0},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("           CPU0 CPU1\nPIN: 1\n", "line 2: PIN: expected a count for each"),
        ("PIN: 1 2\n", "line 1: PIN"),
        ("           CPU0\nPIN: x\n", "line 2: PIN"),
        (TABLE.format(1, 1), "1 tables with PIN or PIW, expected one before and one"),
        (TABLE.format(2, 1) + TABLE.format(1, 1), "PIN falls"),
    ],
)
def test_tables_that_can_t_be_compared(text: str, message: str) -> None:
    with pytest.raises(TraceFormatError, match=message):
        counted_between(read_tables(text, "file"), "file")


@given(st.text(alphabet="CPU01: PINW\n", max_size=200))
def test_any_text_is_tables_or_an_error(text: str) -> None:
    try:
        read_tables(text, "file")
    except PiscopeError as error:
        assert "file" in str(error)


def test_a_meta_file_beside_a_sample_is_read(samples: Path) -> None:
    from piscope.commands.verify_run import Request, verified

    path = samples / "vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat"
    account = verified(str(path), Request())
    pin = {c.cpu: c.counted for c in account.counters if c.counter == "PIN"}
    # the README of the captures counts 261
    assert sum(pin.values()) == 261
    assert all(c.within for c in account.counters)
