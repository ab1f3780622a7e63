"""Subscriptions to Unified Procedure Steps (PS3.4 §CC.2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydicom import Dataset

from pacsroute import matching, uids
from pacsroute.dataset.storable import check_storable
from pacsroute.errors import DataSetError, Failure
from pacsroute.status import INVALID_ARGUMENT_VALUE
from pacsroute.ups.steps import text

SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 3, 4, 5
GLOBAL = uids.sop_instance("UPSGlobalSubscription")
FILTERED_GLOBAL = uids.sop_instance("UPSFilteredGlobalSubscription")

# PS3.4 Table CC.2.3-2: how the subscription of an AE to a UPS changes, "null" being the state of
# one that is new; with "!", its state is reported to the AE.
_SUBSCRIPTIONS = """
                      null       none       locked    unlocked
created-none          none       -          -         -
created-locked        locked!    -          -         -
created-unlocked      unlocked!  -          -         -
global-locked         -          locked!    locked    unlocked
global-unlocked       -          unlocked   locked    unlocked
specific-locked       -          locked!    locked!   locked!
specific-unlocked     -          unlocked!  unlocked! unlocked!
unsubscribe-specific  -          none       none      none
unsubscribe-global    -          none       none      none
suspend-global        -          none       locked    unlocked
"""


class Subscription(NamedTuple):
    """The meaning of an N-ACTION about subscriptions (PS3.4 §CC.2.3).

    Parameters
    ----------
    receiving_ae : str
        The subscriber.
    everything : bool
        Whether it is about all UPS, including future ones, or about one.
    globally : str
        The new global subscription of the AE, ``none``, ``locked`` or ``unlocked``, if it is about
        all UPS.
    keys : pydicom.Dataset
        The keys that a UPS has to match; empty for every UPS.
    becomes : mapping of str to (str, bool)
        For each current subscription of the AE to a UPS, the new one, and whether the UPS must be
        reported to it; see `state_report`.
    """

    receiving_ae: str
    everything: bool
    globally: str
    keys: Dataset
    becomes: Mapping[str, tuple[str, bool]]


def _rows(table: str) -> dict[str, dict[str, tuple[str, bool]]]:
    states, *lines = (line.split() for line in table.strip().split("\n"))
    return {
        row: {
            state: (cell.rstrip("!"), cell.endswith("!"))
            for state, cell in zip(states, cells, strict=True)
            if cell != "-"
        }
        for row, *cells in lines
    }


_BECOMES = _rows(_SUBSCRIPTIONS)
INITIAL = {name: _BECOMES[f"created-{name}"]["null"] for name in ("none", "locked", "unlocked")}
"""For each global subscription, the subscription to a new UPS, and whether it is reported."""


def check_subscription(
    stored: Dataset | None, sop_instance: str, action_type: int, action_information: Dataset
) -> Subscription:
    """Return what an N-ACTION about subscriptions means, or raise a `Failure` (PS3.4 §CC.2.3).

    A handler that does not know the receiving AE's address refuses with 0xC308, one that does not
    grant deletion locks answers with the warning 0xB301.

    Parameters
    ----------
    stored : pydicom.Dataset or None
        The step, if it is about one.
    sop_instance : str
        The SOP Instance UID of the step, `GLOBAL` or `FILTERED_GLOBAL`.
    action_type : int
        `SUBSCRIBE`, `UNSUBSCRIBE` or `SUSPEND`.
    action_information : pydicom.Dataset
        Its receiving AE, deletion lock and keys.

    Raises
    ------
    Failure
        0x0115 for what is missing, and for keys that cannot be matched or returned; 0xC307
        without a step; 0xC314 to suspend other than globally.

    Examples
    --------
    >>> asked = Dataset()
    >>> asked.ReceivingAE, asked.DeletionLock = "WATCHER", "TRUE"
    >>> subscription = check_subscription(None, GLOBAL, SUBSCRIBE, asked)
    >>> subscription.globally, subscription.becomes["none"]
    ('locked', ('locked', True))
    """
    check_storable(action_information, INVALID_ARGUMENT_VALUE)
    receiving_ae = text(action_information, "ReceivingAE")
    if not receiving_ae:
        raise Failure(INVALID_ARGUMENT_VALUE, "ReceivingAE is missing")
    everything = sop_instance in (GLOBAL, FILTERED_GLOBAL)
    if not everything and action_type == SUSPEND:
        raise Failure(0xC314)
    if not everything and stored is None:
        raise Failure(0xC307)
    scope, keys, globally = "global" if everything else "specific", Dataset(), "none"
    if action_type == SUBSCRIBE:
        lock = {"TRUE": "locked", "FALSE": "unlocked"}.get(text(action_information, "DeletionLock"))
        if lock is None:
            raise Failure(INVALID_ARGUMENT_VALUE, "DeletionLock must be TRUE or FALSE")
        globally, row = lock, f"{scope}-{lock}"
        if sop_instance == FILTERED_GLOBAL:
            keys.update(action_information)
            del keys.ReceivingAE, keys.DeletionLock
            if not keys.keys() - {0x0008_0005}:
                raise Failure(INVALID_ARGUMENT_VALUE, "there are no keys to match")
            _check_keys(keys)
    else:
        row = f"{'suspend' if action_type == SUSPEND else 'unsubscribe'}-{scope}"
    return Subscription(receiving_ae, everything, globally, keys, _BECOMES[row])


def _check_keys(keys: Dataset) -> None:
    """Raise a `Failure` for keys that would fail for every step."""
    try:
        matching.matches(keys, keys)
    except DataSetError:
        raise Failure(INVALID_ARGUMENT_VALUE, "the keys cannot be matched") from None
