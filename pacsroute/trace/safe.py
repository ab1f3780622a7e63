"""Decide which values of a data set are safe to show, as they cannot contain patient data.

Traces are pasted into mails and issues, so values are masked by default. The exceptions are
elements that describe the technique, not the patient:

- Valid UIDs, as in the Retain UIDs Option of PS3.15 Annex E: without them, a trace cannot
  distinguish studies. They identify a patient only to someone with access to the archive.
- Levels, counts, numbers within a series, modality, state, and pixel layout: elements that the
  dictionary defines as codes or whole numbers, and that no profile of PS3.15 table E.1-1 removes
  or replaces. Free text, names, dates, times and private elements are excluded, and so are ages,
  sizes and sex.

The peer chooses the contents of its elements, so each value must also have the form that its
element requires. Command sets and negotiation are shown, except for Error Comments, which are free
text, and the user identity. AE titles are shown, since they name machines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import BaseTag

from pacsroute import uids

_KEYWORDS = """
    SpecificCharacterSet QueryRetrieveLevel InstanceAvailability
    NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances
    NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances NumberOfSeriesRelatedInstances
    Modality ModalitiesInStudy SeriesNumber AcquisitionNumber InstanceNumber
    ImageType ConversionType PresentationIntentType
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PixelAspectRatio
    LossyImageCompression LossyImageCompressionMethod
    BurnedInAnnotation RecognizableVisualFeatures
    ScheduledProcedureStepStatus PerformedProcedureStepStatus
    ProcedureStepState InputReadinessState ScheduledProcedureStepPriority
    FailureReason WarningReason TransactionStatus
    CompletionFlag VerificationFlag ValueType ContinuityOfContent RelationshipType
    NumberOfCopies PrintPriority MediumType FilmDestination FilmOrientation FilmSizeID
    MagnificationType SmoothingType Polarity ImageBoxPosition PrinterStatus ExecutionStatus
"""

SHOWN = frozenset(tag for word in _KEYWORDS.split() if (tag := tag_for_keyword(word)))
"""The tags of the safe elements; all elements with VR UI are safe as well."""

_FORMS = {
    "CS": re.compile(r"[A-Z0-9 _*?]{1,16}", re.ASCII),
    "IS": re.compile(r"[+-]?[0-9]{1,10}", re.ASCII),
    "US": re.compile(r"[0-9]{1,5}", re.ASCII),
}


def is_safe(tag: BaseTag, values: Sequence[str]) -> bool:
    """Return whether the values of an element may be shown.

    Parameters
    ----------
    tag : BaseTag
        The tag of the element.
    values : sequence of str
        Its values, each as a text.

    Examples
    --------
    >>> is_safe(BaseTag(0x00080060), ["CT"]), is_safe(BaseTag(0x00100010), ["Doe^John"])
    (True, False)
    """
    if tag.is_private:
        return False
    if tag in SHOWN:
        form = _FORMS[dictionary_VR(tag)]
        return all(form.fullmatch(value) for value in values)
    return _holds_uids(tag) and all(map(uids.is_uid, values))


def _holds_uids(tag: BaseTag) -> bool:
    try:
        return dictionary_VR(tag) == "UI"
    except KeyError:
        return False
