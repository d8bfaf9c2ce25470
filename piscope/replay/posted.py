"""Which of KVM's posts are replayed as hardware's (piscope.posted has the words)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from piscope.origins import Given, Origin
from piscope.posted import Posted, parse_posted
from piscope.tables import Posts

__all__ = ("by_hardware", "remapped", "resolve_auto", "resolve_posted")

_ORIGINS = {
    "vfio": Origin.VFIO,
    "vhost": Origin.VHOST,
    "irqfd": Origin.IRQFD,
    "emulated": Origin.EMULATED,
    "ipi": Origin.IPI,
}


def resolve_posted(posted: Posted, posts: Posts) -> Posted:
    """The value with its words in order, `auto` replaced by what it means here.

    Raises UsageError as parse_posted does.
    """
    return resolve_auto(posted, bool(remapped(posts).any()))


def resolve_auto(posted: Posted, some_remapped: bool) -> Posted:
    """The same where it is known whether any post is `remapped`."""
    words = parse_posted(posted)
    if words != ("auto",):
        return ",".join(words)
    return "vfio" if some_remapped else "msi"


def remapped(posts: Posts) -> npt.NDArray[np.bool_]:
    """bool[posts]: interrupts of assigned devices that the host handled."""
    of_vfio = posts.origin == Origin.VFIO
    result: npt.NDArray[np.bool_] = posts.posted & posts.postable & of_vfio
    return result


def by_hardware(posts: Posts, posted: Posted) -> npt.NDArray[np.bool_]:
    """bool[posts]: those that are replayed as hardware's."""
    words = parse_posted(resolve_posted(posted, posts))
    asked = [_ORIGINS[word] for word in words if word in _ORIGINS]
    result: npt.NDArray[np.bool_] = np.isin(posts.origin, asked) & posts.postable
    if "msi" in words:
        result |= posts.unicast
    # what a user gave is by whom he says
    result &= posts.given == Given.TRACED
    result |= posts.given_by_hardware
    return result
