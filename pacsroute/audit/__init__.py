r"""Audit events, as `@app.audit` gets them, and their XML (PS3.15 §A.5).

An event names the user, the action, and the patient's studies. It is never logged.

Examples
--------
>>> from pacsroute import App, audit
>>> app = App("ARCHIVE")
>>> @app.audit
... def keep(event):
...     with open("audit.xml", "ab") as file:
...         file.write(audit.xml(event) + b"\n")
"""

from __future__ import annotations

from pacsroute.audit.event import MINOR, SERIOUS, SUCCESS, Event, Kind, Subject
from pacsroute.audit.message import xml

__all__ = ["MINOR", "SERIOUS", "SUCCESS", "Event", "Kind", "Subject", "xml"]
