"""The DICOM Conformance Statement of an app, in the sections of PS3.2 Annex N.

It is generated from the routes and settings: `facts` queries the policy that negotiates
associations, and each of the other modules writes some of the sections. Nothing else is claimed;
facts that only the product's vendor knows are marked "To be completed".
"""

from __future__ import annotations

from pacsroute.conformance import network, overview, security, services, statuses, web
from pacsroute.conformance.facts import gather
from pacsroute.conformance.markdown import BLANK, text
from pacsroute.conformance.outline import assemble, with_contents
from pacsroute.framework.base import BaseApp

__all__ = ["BLANK", "statement"]


def statement(app: BaseApp, date: str | None = None) -> str:
    """Return the conformance statement of an app, as Markdown.

    The same app with the same settings always gets the same statement.

    Parameters
    ----------
    app : App
        The app, with all of its routes and blueprints.
    date : str, optional
        The date of the document.

    Examples
    --------
    >>> from pacsroute import App
    >>> app = App("ARCHIVE")
    >>> print(statement(app).splitlines()[0])
    # DICOM Conformance Statement: ARCHIVE
    """
    facts = gather(app)
    bodies = {
        **overview.sections(facts),
        **services.sections(facts),
        **network.sections(facts),
        **statuses.sections(facts),
        **security.sections(facts),
        **web.sections(facts),
    }
    return with_contents(text(overview.cover(facts, date), assemble(bodies))) + "\n"
