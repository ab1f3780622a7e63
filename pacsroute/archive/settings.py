"""The settings of an archive, checked when it is created."""

from __future__ import annotations

from collections.abc import Mapping

from pacsroute.allow import allowed, rule
from pacsroute.archive.layout import Layout
from pacsroute.archive.model import Model
from pacsroute.errors import SetupError


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `SetupError` for a value that is not one of the choices."""
    if value not in choices:
        raise SetupError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_layout(layout: Layout, model: Model) -> None:
    """Raise a `SetupError` for a layout with attributes that the index lacks."""
    missing = sorted(layout.keys.difference(model.all))
    if missing:
        raise SetupError(
            f"layout: {', '.join(missing)} is not in the index; add it with keys=, such as "
            f'keys={{"STUDY": ["{missing[0]}"]}}'
        )


class Issuers:
    """The issuers of Patient IDs for instances that do not name one.

    Parameters
    ----------
    default : str or mapping of str to str
        One issuer for all, or one for each rule as in the setting `allow`.

    Examples
    --------
    >>> issuers = Issuers({"CT1": "NORTH", "10.2.0.0/16": "SOUTH"})
    >>> issuers.of("CT2", "10.2.0.1"), issuers.of("CT2", "10.3.0.1")
    ('SOUTH', '')
    """

    def __init__(self, default: str | Mapping[str, str]) -> None:
        self._of_all = default if isinstance(default, str) else ""
        self._rules = {} if isinstance(default, str) else dict(default)
        for text in self._rules:
            rule(text)

    def is_by_address(self, calling_ae: str, address: str) -> bool:
        """Return whether the issuer depends on the address."""
        return bool(self._rules) and self.of(calling_ae, address) != self.of(calling_ae, "")

    def of(self, calling_ae: str, address: str) -> str:
        """Return the issuer for a calling AE title and an address, or an empty string."""
        found = (
            issuer for one, issuer in self._rules.items() if allowed([one], calling_ae, address)
        )
        return next(found, self._of_all)


_CONFLICTS = {
    "refuse": "is refused with 0x0111 and put into quarantine",
    "replace": "replaces it within the same patient and study, and is otherwise refused with "
    "0x0111",
    "keep-both": "is stored beside it",
}
_MISMATCHES = {
    "quarantine": "is put into quarantine, and its sender gets the warning 0xB000",
    "refuse": "is refused with 0xC000",
    "accept": "is stored",
}


def consideration(name: str, conflict: str, mismatch: str) -> str:
    """Return the text about an archive for the conformance statement (PS3.2 §N.5.6)."""
    return (
        f"Instances in the archive {name!r} can be queried, retrieved and committed to as soon as "
        "they are stored. The same content again, in any transfer syntax, is answered with "
        "Success and changes nothing. Different content with a known SOP Instance UID "
        f"{_CONFLICTS[conflict]}. An instance whose patient is not that of its study "
        f"{_MISMATCHES[mismatch]}. A patient is a Patient ID with its Issuer of Patient ID; a "
        "retrieval by an ID of several issuers is refused with 0xA900. A deleted instance is "
        "refused with 0xC000. Patients are not merged and studies are not split, neither by HL7 "
        "nor otherwise."
    )
