"""The transitions that the model does not allow: grouped, and listed with events.

Many that are alike are one group. Listed one by one are the first of each group, then
the others in time order, each with what surrounds it in the trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from piscope.sources.raw import Array
from piscope.tables import Events, Vcpus
from piscope.verify.account import Account, Disagreement, Event, Group
from piscope.verify.apic_ids import ApicIds
from piscope.verify.describe import (
    expected_values,
    kind_of,
    observed_values,
    reading,
    rule_of,
    source_of,
)
from piscope.verify.finding import Candidate
from piscope.verify.observations import UNREAD, Hits
from piscope.verify.transitions import Transitions

__all__ = ("Disagreeing", "list_disagreements")

EVENTS_AROUND = 5
"""How many events are shown before a disagreement, and behind it."""

_SEARCHED = 4096
"""Rows on each side that are looked through for them."""


@dataclass(frozen=True, slots=True)
class Disagreeing:
    """A candidate, and all that its disagreements are described from."""

    events: Events
    vcpus: Vcpus
    hits: Hits
    transitions: Transitions
    apic_ids: ApicIds
    chosen: Candidate


def list_disagreements(account: Account, of: Disagreeing, limit: int) -> None:
    """Put the groups, and `limit` of the disagreements, into the account."""
    hits, transitions, chosen = of.hits, of.transitions, of.chosen
    wrong = np.flatnonzero(~chosen.agrees[transitions.case])
    wrong = wrong[np.argsort(hits.row[transitions.after[wrong]], kind="stable")]
    of_case = transitions.case[wrong]
    members: dict[str, list[Array]] = {}
    groups: dict[str, Group] = {}
    for case_number in dict.fromkeys(of_case.tolist()):
        mine = wrong[of_case == case_number]
        case = transitions.cases[case_number]
        fields = list(chosen.answers[case_number].wrong)
        expected = expected_values(
            transitions, int(mine[0]), hits, of.apic_ids, chosen.kernel
        )
        observed = observed_values(transitions, int(mine[0]), hits, of.apic_ids)
        group = Group(
            kind=kind_of(case),
            fields=fields,
            expected={f: expected[f] for f in fields},
            observed={f: observed[f] for f in fields},
            transitions=0,
            first_ns=0,
            last_ns=0,
        )
        # PIR's vectors differ from one to the next, and so may NDST
        key = f"{group.kind} {fields} {[group.observed.get(f) for f in ('SN', 'NV')]}"
        groups.setdefault(key, group)
        members.setdefault(key, []).append(mine)
    whole = {key: np.sort(np.concatenate(parts)) for key, parts in members.items()}
    for key, group in groups.items():
        ts_ns = np.sort(hits.ts_ns[transitions.after[whole[key]]])
        group.transitions = len(ts_ns)
        group.first_ns, group.last_ns = int(ts_ns[0]), int(ts_ns[-1])
    account.groups = sorted(groups.values(), key=lambda g: -g.transitions)
    first = [int(numbers[0]) for numbers in whole.values()]
    # each group once, and each transition once
    listed = dict.fromkeys([*first, *wrong.tolist()])
    for number in sorted(list(listed)[:limit]):
        account.listed.append(_disagreement(of, number))


def _disagreement(of: Disagreeing, number: int) -> Disagreement:
    hits, transitions, chosen, apic_ids = (
        of.hits,
        of.transitions,
        of.chosen,
        of.apic_ids,
    )
    case_number = int(transitions.case[number])
    case = transitions.cases[case_number]
    before, after = int(transitions.before[number]), int(transitions.after[number])
    vcpu = of.vcpus.rows[int(hits.vcpu[after])]
    return Disagreement(
        vcpu=vcpu.label,
        kind=kind_of(case),
        fields=list(chosen.answers[case_number].wrong),
        expected=expected_values(transitions, number, hits, apic_ids, chosen.kernel),
        observed=observed_values(transitions, number, hits, apic_ids),
        preempted=None if case.preempted == UNREAD else bool(case.preempted),
        blocking=None if case.blocking == UNREAD else bool(case.blocking),
        before=reading(hits, before, apic_ids),
        after=reading(hits, after, apic_ids),
        rule=rule_of(case, chosen.kernel),
        source=source_of(case, chosen.kernel),
        events=list(
            _events_around(
                of.events, int(hits.row[before]), int(hits.row[after]), vcpu.tid
            )
        ),
    )


def _events_around(
    events: Events, before: int, after: int, tid: int
) -> Iterator[Event]:
    """The readings, and the events near the later one on its pCPU or of the thread."""
    first = max(after - _SEARCHED, 0)
    near = np.arange(first, min(after + _SEARCHED, len(events)))
    mine = near[(events.cpu[near] == events.cpu[after]) | (events.tid[near] == tid)]
    at = int(np.searchsorted(mine, after))
    shown = mine[max(at - EVENTS_AROUND, 0) : at + EVENTS_AROUND + 1].tolist()
    for row in sorted({before, *shown}):
        index = int(events.event[row])
        yield Event(
            ts_ns=int(events.ts_ns[row]),
            cpu=int(events.cpu[row]),
            tid=int(events.tid[row]),
            comm=events.info.comms.get(int(events.tid[row])),
            name=events.names[index][1],
            fields=_fields(events, index, row),
            mark={before: "before", after: "after"}.get(row),
        )


def _fields(events: Events, index: int, row: int) -> dict[str, int | str]:
    payload = events.payload.get(index)
    if payload is None:
        return {}
    at = int(np.searchsorted(payload.rows, row))
    if at >= len(payload.rows) or payload.rows[at] != row:
        return {}
    found: dict[str, int | str] = {}
    for name, values in payload.columns.items():
        known = payload.valid.get(name)
        if known is None or known[at]:
            value = values[at]
            found[name] = (
                int(value) if isinstance(value, np.integer) else _as_text(value)
            )
    return found


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)
