"""Derive the accepted presentation contexts from the routes."""

from __future__ import annotations

from pacsroute import uids
from pacsroute.framework.routes import Route, choose_syntax, storable
from pacsroute.upper_layer import extended
from pacsroute.upper_layer.negotiation import AcceptedContext, negotiate
from pacsroute.upper_layer.pdu import AssociateAC, AssociateRJ, AssociateRQ, remember

_KNOWN = 1024  # cached SOP classes; bounded, because peers choose them
_LONGEST = 64  # characters of a UID


class ContextPolicy:
    """The presentation contexts that may be negotiated, for `pacsroute.upper_layer.negotiation`.

    The associations of an app share it, with its cached results for SOP classes.

    Parameters
    ----------
    routes : list of Route
        The routes that the peer may reach.
    window : int
        The number of operations that may be outstanding at once.
    get_without_role : bool
        Whether a C-GET may send on storage contexts without role selection.
    """

    def __init__(
        self, routes: list[Route], window: int = 1, *, get_without_role: bool = False
    ) -> None:
        self._all = sorted(routes, key=lambda route: route.rank)
        self.window = window
        self._get_without_role = get_without_role
        self._known: dict[str, list[Route]] = {}
        self._answers: dict[tuple[bytes, int], tuple[AssociateAC, dict[int, AcceptedContext]]] = {}

    def answer(
        self, request: AssociateRQ, maximum_length: int
    ) -> tuple[AssociateAC | AssociateRJ, dict[int, AcceptedContext]]:
        """Return the answer to a request as `negotiate` does; a proposal is judged only once.

        Most peers send the same proposal each time; judging 128 contexts takes a millisecond.
        """
        key = request.proposal, maximum_length
        known = self._answers.get(key)
        if known is None:
            answer, contexts = negotiate(request, self, maximum_length)
            if request.proposal and isinstance(answer, AssociateAC):
                remember(self._answers, key, (answer, dict(contexts)))
            return answer, contexts
        before, accepted = known
        called, calling, titles = request.called_ae, request.calling_ae, request.titles
        answer = AssociateAC(
            called, calling, before.contexts, before.user_information, titles=titles
        )
        return answer, dict(accepted)

    def covering(self, sop_class: str) -> list[Route]:
        """Return the routes open to commands on a context of this class, best first."""
        known = self._known.get(sop_class)
        if known is None:
            classes = (sop_class, *uids.carried(sop_class))
            found = [route for route in self._all if any(map(route.covers, classes))]
            known = [route for route in found if not _is_replaced(route, found)]
            if len(sop_class) <= _LONGEST:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[sop_class] = known
        return known

    def _routes(self, sop_class: str) -> list[Route]:
        """Return the routes for which this side is the SCP of a class."""
        return [route for route in self.covering(sop_class) if route.command != "n_event_report"]

    def serves(self, sop_class: str) -> bool:
        """Return whether a route answers for the SOP class; C-ECHO always has one."""
        return sop_class == uids.VERIFICATION or any(
            route.command != "n_event_report" for route in self.covering(sop_class)
        )

    def uses(self, sop_class: str) -> bool:
        """Return whether this side may be the SCU of the class.

        It is the SCU of classes that a C-GET retrieves, and of events that peers report.
        """
        if any(route.command == "n_event_report" for route in self.covering(sop_class)):
            return True
        return uids.is_storage(sop_class) and any(route.command == "get" for route in self._all)

    def sends_without_role(self, sop_class: str) -> bool:
        """Return whether a C-GET may send this class on contexts without role selection."""
        return self._get_without_role and any(
            route.command == "get" for route in self.covering(sop_class)
        )

    def extended(self, sop_class: str, offered: bytes) -> bytes:
        """Return the answer to an extended negotiation; empty if no route supports it."""
        for route in self._routes(sop_class):
            if route.extended:
                worklist = sop_class == uids.WORKLIST
                return extended.answer(route.command, route.extended, offered, worklist=worklist)
        return b""

    def choose(self, sop_class: str, proposed: tuple[str, ...]) -> str | None:
        """Return the transfer syntax for a context."""
        for route in self.covering(sop_class):
            return choose_syntax(route, proposed)
        if sop_class == uids.VERIFICATION:
            return choose_syntax(ECHO, proposed)
        # Instances of a C-GET may have any syntax; they are converted if possible.
        return storable(proposed) if self.uses(sop_class) else None


def _is_replaced(route: Route, others: list[Route]) -> bool:
    """Return whether another route that covers the same class replaces a default route."""
    return route.default and any(
        other.command == route.command and other.kind in (None, route.kind) and not other.default
        for other in others
    )


ECHO = Route("echo", None, None, (), False, lambda request: None)
"""The handler of a C-ECHO that has no route."""
