"""Sections 1.3, 5.3, 6.3, 7.3.3 and 8.6: DICOM web services (PS3.18)."""

from __future__ import annotations

from pacsroute.conformance.facts import Facts
from pacsroute.conformance.markdown import table, text
from pacsroute.framework.resources import resources

_STATUSES = [
    ["200", "Success"],
    ["202", "Some instances were not stored, or with a warning"],
    ["304", "The client has it already"],
    ["400", "A parameter, path or body that is not one; the handler's 0xA9xx"],
    ["401, 403", "Who asks may not, or has not said who they are; 0x0124 of a search or store"],
    ["404", "There is nothing of that"],
    ["406", "Not in a media type or transfer syntax that is accepted"],
    ["409", "No instance was stored"],
    ["413, 415", "A body that is too large, or of a media type that is not taken"],
    ["500", "Other failures of the handler"],
    ["501", "There is no handler"],
    ["503", "No room; Retry-After tells when to try again. The handler's 0xA7xx"],
]


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of the sections on web services, where there is a port for them."""
    config = facts.app.config
    if config.web_port is None:
        return {}
    found = resources(facts.app.routes)
    studies = [(path, methods) for path, methods in found if path != "wado"]
    has_uri = len(studies) < len(found)
    root = config.web_root
    bodies = {
        "1.3": table(
            ["Service", "Origin server", "User agent"],
            [
                ["URI Service", "Yes" if has_uri else "No", "No"],
                ["Studies Service", "Yes" if studies else "No", "Yes"],
            ],
        ),
        "5.3": f"The origin server is below `{root}`; a called AE title that handlers own has a "
        f"path of its own, `{root}/aets/{{title}}`.",
        "6.3": "The settings that begin with `web_` in section 6.1.",
        "7.3.3": table(["Status", "Meaning"], _STATUSES),
        "8.6": text(
            "HTTPS, if `web_certificate` is set; certificates of clients, if `web_ca` is.",
            "Basic and Bearer credentials are judged by the function that judges user identities."
            if any(entity.authenticates for entity in facts.entities)
            else "Nobody is asked who they are: only programs on the same machine are answered, "
            "unless `web_open` is set.",
        ),
    }
    if has_uri:
        bodies["5.3.1"] = (
            f"`GET {root}/wado` with the parameters of PS3.18 §9: instances as application/dicom, "
            "frames as image/jpeg, image/png or image/gif."
        )
    if studies:
        bodies["5.3.2"] = table(
            ["Resource", "Methods"],
            [[f"`{root}/{path}`", ", ".join(methods)] for path, methods in studies],
        )
    return bodies
