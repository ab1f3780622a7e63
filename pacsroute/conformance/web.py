"""Sections 1.3, 5.3, 6.3, 7.3.3 and 8.6: DICOM web services (PS3.18)."""

from __future__ import annotations

from pacsroute.conformance.facts import Facts
from pacsroute.conformance.markdown import table, text
from pacsroute.framework.resources import resources

_STATUSES = [
    ["200", "Success; a search without results has an empty list"],
    ["201", "A work item or subscription was created"],
    ["202", "Some instances were not stored, or have a warning; a cancellation was requested"],
    ["204", "A search in XML without results"],
    ["206", "The part that Range requests; metadata without the instances that cannot be read"],
    ["304", "The client has it already"],
    ["400", "An invalid parameter, path or body; the handler's 0xA9xx"],
    ["401, 403", "The user is not authenticated, or not authorized; 0x0124 of a search or store"],
    [
        "404",
        "The server has nothing for this path, or the user may not see it: 0x0124 of a retrieval",
    ],
    ["405", "The resource does not have this method; Allow lists its methods"],
    ["406", "Not available in an accepted media type or transfer syntax"],
    ["409", "No instance was stored; a work item is in another state"],
    ["413, 415", "A body that is too large, or has an unsupported media type or content coding"],
    ["416", "A range beyond the end"],
    ["500", "Other failures of the handler"],
    ["501", "There is no handler"],
    ["503", "No resources; Retry-After says when to try again. The handler's 0xA7xx"],
]


_RETRIEVED = [
    [
        "Studies, series, instances",
        "multipart/related; type=application/dicom (default), "
        "multipart/related; type=application/octet-stream for their bulk data",
    ],
    ["Instances", "application/dicom"],
    [
        "Metadata",
        "application/dicom+json (default), application/json, "
        "multipart/related; type=application/dicom+xml; for one instance also "
        "application/dicom+xml",
    ],
    [
        "Frames",
        "application/octet-stream (default), and the media type of the stored transfer syntax "
        "(PS3.18 Table 8.7.3-5); each in parts or, for one frame, without",
    ],
    [
        "Bulk data and pixel data",
        "application/octet-stream (default), and the media type of the stored transfer syntax for "
        "pixel data; one value in parts or without, several in parts",
    ],
    [
        "Rendered",
        "image/jpeg (default), image/png, image/gif; several frames in parts, or only the "
        "first one if the client accepts no parts",
    ],
    ["Thumbnails", "image/jpeg (default), image/png, image/gif"],
]
_RENDERING = (
    "Parameters of rendered resources: `quality` is that of JPEG, `viewport` and `window` are "
    "those of PS3.18 §8.3.5.1. `annotation` and `iccprofile` are ignored, and a Warning says so. "
    "Reports and other documents are not rendered."
)


def sections(facts: Facts) -> dict[str, str]:
    """Return the bodies of the sections on web services, if there is a port for them."""
    config = facts.app.config
    if config.web_port is None:
        return {}
    found = resources(facts.app.routes)
    steps = [(path, methods) for path, methods in found if path.startswith("workitems")]
    has_uri = any(path == "wado" for path, _ in found)
    studies = [pair for pair in found if pair not in steps and pair[0] != "wado"]
    root = config.web_root
    bodies = {
        "1.3": table(
            ["Service", "Origin server", "User agent"],
            [
                ["URI Service", "Yes" if has_uri else "No", "No"],
                ["Studies Service", "Yes" if studies else "No", "Yes"],
                ["Worklist Service", "Yes" if steps else "No", "No"],
            ],
        ),
        "5.3": text(
            f"The origin server is at `{root}`; a called AE title with its own handlers has its "
            f"own path, `{root}/aets/{{title}}`. Capabilities are at `{root}/`, as "
            "application/vnd.sun.wadl+xml or application/json.",
            "HTTP/1.1 and HTTP/1.0. Request bodies have a length or are chunked, and may be "
            "compressed with gzip or deflate. Data sets are sent in gzip if the client accepts it. "
            "Text is in UTF-8. A request without Accept gets the default media type.",
        ),
        "6.3": "The settings that begin with `web_` or `max_web_` in section 6.1.",
        "7.3.3": table(["Status", "Meaning"], _STATUSES),
        "8.6": text(
            "HTTPS, if `web_certificate` is set; certificates of clients, if `web_ca` is.",
            "The function that checks user identities also checks Basic and Bearer credentials."
            if any(entity.authenticates for entity in facts.entities)
            else "There is no authentication: only clients on the same machine are answered, "
            "unless `web_open` is set.",
        ),
    }
    if has_uri:
        bodies["5.3.1"] = (
            f"`GET {root}/wado` with the parameters of PS3.18 §9: instances as application/dicom, "
            "frames as image/jpeg, image/png or image/gif. `anonymize` is refused; annotations and "
            "presentation states are ignored, and a Warning says so."
        )
    if studies:
        bodies["5.3.2"] = _studies(facts, studies)
    if steps:
        bodies["5.3.3"] = text(
            _resources(root, steps),
            "Work items are application/dicom+json (default), application/json or "
            "application/dicom+xml; searches in XML come in parts. There is no notification "
            "connection: a subscription is accepted for AE titles that DIMSE reaches, and refused "
            "with 403 for others.",
        )
    return bodies


def _resources(root: str, found: list[tuple[str, list[str]]]) -> str:
    rows = [[f"`{root}/{path}`", ", ".join(methods)] for path, methods in found]
    return table(["Resource", "Methods"], rows)


def _studies(facts: Facts, found: list[tuple[str, list[str]]]) -> str:
    """Return the section on the Studies Service, with the transactions that have routes."""
    config = facts.app.config
    methods = dict(found)
    parts = [_resources(config.web_root, found)]
    if "studies/{study}/metadata" in methods:
        parts += [
            "Retrieve:",
            table(["Resource", "Media types"], _RETRIEVED),
            "Without a transfer syntax in Accept, explicit VR little endian is sent; instances "
            "that were compressed with loss, or cannot be decoded, are sent as stored. With `*`, "
            "all instances are sent as stored. A client may request any native transfer syntax, "
            "and the one in which an instance is stored.",
            _RENDERING,
        ]
    if "POST" in methods.get("studies", ()):
        parts.append(
            "Store: application/dicom, in parts or as the body; metadata as application/dicom+json "
            "or application/dicom+xml with bulk data in parts. Compressed pixel data are accepted "
            "as image/jpeg, image/jls, image/jp2, image/jpx, image/jphc, image/dicom-rle and video "
            "media types, and never changed; for the first three, attributes of the Image Pixel "
            "Description Macro may be missing. image/png and image/gif are refused."
        )
    if "GET" in methods.get("studies", ()):
        parts.append(
            "Search: the attributes of PS3.18 Tables 10.6.3-3 to 10.6.3-5, relational searches, "
            f"paging with `limit` and `offset`, at most {config.max_results} results at once. "
            "Fuzzy matching is not supported: a Warning says so. A search without results is "
            "answered with 200 and an empty list."
        )
    return text(*parts)
