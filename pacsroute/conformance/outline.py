"""The sections of a conformance statement, in the order of PS3.2 Annex N."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pacsroute.conformance.markdown import heading, text

_OUTLINE = """
1 Overview
1.1 Content and Transfer
1.1.1 Structured Reporting Root Template IDs
1.2 DIMSE Services
1.2.1 Verification
1.2.2 Storage
1.2.3 Workflow Management
1.2.4 Query/Retrieve
1.2.5 Printing
1.3 DICOM Web Services
1.3.1 URI Service
1.3.2 Studies Service
1.3.3 Worklist Service
1.3.4 Non-Patient Instance Service
1.3.5 Storage Commitment Service
1.3.6 Modality Scheduled Procedure Step Service
1.3.7 Modality Performed Procedure Step Service
1.4 Media Services
1.5 Real-Time Video Service
1.6 De-identification Profiles
1.7 Specific Character Sets
2 Table of Contents
3 Introduction
3.1 Revision History
3.2 Audience
3.3 Remarks
3.4 Terms and Definitions
3.5 Abbreviations
3.6 References
4 Implementation Model
4.1 Application Entities and Data Flow
5 Service and Interoperability Description
5.1 Mapping of Services to Application Entities
5.2 DIMSE Services
5.2.1 Basic Worklist Management Service
5.2.2 Modality Performed Procedure Step Service
5.2.3 Unified Worklist and Procedure Step Service
5.2.4 Instance Availability Notification Service
5.2.5 Storage Service
5.2.5.1 SCU of the Storage SOP Classes
5.2.5.1.1 Transcoding of Transfer Syntaxes
5.2.5.2 SCP of the Storage SOP Classes
5.2.6 Storage Commitment Service
5.2.7 Query/Retrieve Service Class
5.2.8 Print Management Service
5.2.9 Other Services
5.3 DICOM Web Services
5.3.1 URI Web Service
5.3.2 Studies Web Service
5.3.3 Worklist Web Service
5.3.4 Non-Patient Instance Web Service
5.3.5 Notification Web Service
5.3.6 Storage Commitment Web Service
5.3.7 Modality Scheduled Procedure Step Web Service
5.3.8 Modality Performed Procedure Step Web Service
5.4 Media Services
5.5 Real-Time Video Services
5.6 Cross-Service Considerations
5.7 Specific Character Sets
6 Configuration
6.1 General Configuration Parameters
6.2 Configuration of DIMSE Services
6.3 Configuration of DICOM Web Services
6.4 Configuration of Media Storage Service
6.5 Configuration of Real-Time Video Service
6.6 Configuration of Audit Trail - Syslog
7 Network and Media Communication Details
7.1 General
7.1.1 General Association Parameters
7.2 Specifications
7.3 Status Codes
7.3.1 General Communication and Failure Behavior
7.3.2 DIMSE Services
7.3.2.1 Basic Worklist Management Service
7.3.2.2 Modality Performed Procedure Step Service
7.3.2.3 Unified Worklist and Procedure Step Service
7.3.2.4 Instance Availability Notification Service
7.3.2.5 Storage Service
7.3.2.6 Storage Commitment Service
7.3.2.7 Query/Retrieve Service Class
7.3.2.8 Print Management Service
7.3.2.9 Other Services
7.3.3 DICOM Web Services
8 Security
8.1 Introduction
8.2 External Network Requirements
8.3 TCP Port Configuration
8.4 DICOM Security Profiles Support
8.4.1 Secure Use and User Identity Profiles
8.4.2 Secure Transport Connection Profiles
8.4.3 Media Storage Security Profiles
8.4.4 Attribute Confidentiality Profiles
8.4.5 Digital Signature Profiles
8.4.6 Additional DICOM Security Profiles
8.5 User Identity Negotiation Support
8.5.1 Association Initiation
8.5.2 Association Acceptance
8.6 Web Services Security Features
8.7 Other Security Features
8.7.1 Media Storage Security
8.7.2 Network Security
8.7.3 Other Security Features
A.A Information Object Definitions (IODs)
A.B Structured Report Content Encoding
A.C Security Details
A.D Mapping of Attributes
A.E Code Set Usage
"""

_SECTIONS = [tuple(line.split(" ", 1)) for line in _OUTLINE.strip().splitlines()]
_CONTENTS = "<contents>"


def assemble(bodies: Mapping[str, str]) -> str:
    """Return the sections with their bodies; sections without a body are marked N/A.

    Parameters
    ----------
    bodies : mapping of str to str
        The bodies by section number; empty for a section that has only sub-sections.
    """
    bodies = {"2": _CONTENTS, **bodies}
    unknown = bodies.keys() - {number for number, _ in _SECTIONS}
    assert not unknown, unknown
    return text(
        *(
            text(heading(number, title, applies=number in bodies), bodies.get(number, "N/A"))
            for number, title in _SECTIONS
        )
    )


def with_contents(document: str) -> str:
    """Return a document with a table of contents inserted."""
    found = re.findall(r"^(##+) (.+)$", document, re.MULTILINE)
    lines = [f"{'  ' * (len(marks) - 2)}- [{title}](#{_anchor(title)})" for marks, title in found]
    return document.replace(_CONTENTS, "\n".join(lines))


def _anchor(title: str) -> str:
    """Return the anchor that common Markdown renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
