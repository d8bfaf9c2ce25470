"""The summary as JSON: the same numbers that the report prints, from the same object.

`docs/json.md` documents every key; a test makes that file anew and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from piscope.report.render_verdict import verdict
from piscope.report.summary import Bounds, PolicySummary, Summary

__all__ = ("Difference", "as_json", "difference")


@dataclass(slots=True)
class Difference:
    """How much more often (negative: less) a policy does something than the first.

    A range is as wide as both policies' ranges allow.

    unloaded_notifications  sent while the vCPU was not loaded
    residual_notifications  sent while it was loaded, in the host
    wrong_vcpu              taken in another vCPU's guest mode
    known                   the same three by posts that are known
    outcomes                known posts, by what became of them
    unloaded_by_reason      by why the vCPU was put
    residual_by_state       by what the vCPU was doing
    residual_by_exit_reason by the VM-exit it was handling
    costs                   by what is counted
    host_irqs               known notifications that the host takes as IRQs
    coalesced               those that met their vector latched already
    """

    unloaded_notifications: Bounds
    residual_notifications: Bounds
    wrong_vcpu: Bounds
    known: dict[str, Bounds]
    outcomes: dict[str, Bounds]
    unloaded_by_reason: dict[str, Bounds]
    residual_by_state: dict[str, Bounds]
    residual_by_exit_reason: dict[str, Bounds]
    costs: dict[str, Bounds]
    host_irqs: Bounds
    coalesced: Bounds


def as_json(summary: Summary) -> dict[str, Any]:
    """Plain values in the order of the document; a key that changes its meaning, or
    goes, raises `schema_version`.

    Two keys are no fields of `Summary`, but told by the report as well: `verdict`, its
    first sentences, and `differences`, of each policy from the first.
    """
    first, *others = summary.policies.values() or (None,)
    values = {
        "schema_version": summary.schema_version,
        "piscope_version": summary.piscope_version,
        "verdict": verdict(summary),
        **summary.as_dict(),
    }
    values["differences"] = {
        policy.name: asdict(difference(first, policy)) for policy in others if first
    }
    return values


def difference(before: PolicySummary, after: PolicySummary) -> Difference:
    """The second policy's counts minus those of the first; a missing one is 0."""
    values: dict[str, Any] = {}
    for field in fields(Difference):
        one, other = getattr(before, field.name), getattr(after, field.name)
        values[field.name] = (
            _minus(other, one) if isinstance(one, Bounds) else _each(other, one)
        )
    return Difference(**values)


def _each(
    counts: Mapping[str, Bounds], less: Mapping[str, Bounds]
) -> dict[str, Bounds]:
    none = Bounds()
    keys = dict.fromkeys((*less, *counts))
    return {key: _minus(counts.get(key, none), less.get(key, none)) for key in keys}


def _minus(count: Bounds, less: Bounds) -> Bounds:
    return Bounds(count.min - less.max, count.max - less.min)
