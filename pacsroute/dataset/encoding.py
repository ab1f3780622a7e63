"""Rows and Datasets to the bytes of a data set (PS3.5 §7, Annex A).

`encode` writes one data set; `RowEncoder` writes many rows in answer to one C-FIND identifier.
Sequences and items have defined lengths. Text is written in the default repertoire if possible,
else in the requested set, else in UTF-8: no character is lost or raises an error. Error messages
name keywords and types, never values.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from pydicom.dataset import Dataset

from pacsroute.dataset import charsets
from pacsroute.dataset.keywords import keyword_tag
from pacsroute.dataset.misfits import what_fits
from pacsroute.dataset.vr import Row, syntax
from pacsroute.dataset.wanted import wanted_by
from pacsroute.dataset.writer import Encoder, encoder_of_all
from pacsroute.errors import DataSetError


def encode(
    row: Row, transfer_syntax: str, *, charset: str | Iterable[str | None] | None = None
) -> bytes:
    r"""The bytes of one data set.

    Parameters
    ----------
    row : mapping of str or Dataset
        Keywords and values, or a Dataset. None is a value of length zero; lists and
        tuples are several values; a list of rows is a sequence. Groups 0000 and 0002 and
        group lengths are left out. The bytes of OW, OF, OL, OD and OV in a mapping are
        little endian.
    transfer_syntax : str
        Its UID; encapsulated ones are explicit VR little endian (PS3.5 §A.4).
    charset : str or iterable of str, optional
        The Specific Character Set for text that is not ASCII; by default, the row's own. If it
        cannot encode a value, the data set becomes ISO_IR 192.

    Raises
    ------
    DataSetError
        An unknown keyword, or a value that does not fit its VR.

    Examples
    --------
    >>> encode({"PatientID": "1"}, "1.2.840.10008.1.2.1")
    b'\x10\x00 \x00LO\x02\x001 '
    """
    how = syntax(transfer_syntax)
    own = row.get("SpecificCharacterSet")
    preferred = charsets.terms(charset) or charsets.terms(own)
    body, _ = _in_a_charset(
        encoder_of_all(how), row, preferred, preferred if own else charsets.DEFAULT
    )
    return _deflate(body) if how.deflated else body


class RowEncoder:
    r"""The data sets of the responses to one C-FIND (PS3.4 §C.4.1.1.3.2).

    Only requested elements are encoded, inside sequences too: a sequence key without an item, or
    with an empty item, requests the whole sequence. Time zone offsets are always kept, as are the
    elements in `kept` at the top level.

    Parameters
    ----------
    transfer_syntax : str
        That of the presentation context.
    identifier : Dataset, optional
        The identifier of the request; without it, whole rows are encoded.
    always : mapping of str, optional
        The elements of every response; the row's own values take precedence.
    kept : iterable of str, optional
        Keywords that are sent if the row has them, requested or not.
    charset : str or iterable of str, optional
        The set of responses that are not ASCII; by default, the identifier's own. A row that it
        cannot encode is sent as ISO_IR 192.

    Raises
    ------
    DataSetError
        An unknown keyword in `always` or `kept`.

    Examples
    --------
    >>> asked = Dataset()
    >>> asked.PatientID = asked.PatientName = ""
    >>> RowEncoder("1.2.840.10008.1.2.1", asked).encode({"PatientID": "1", "Modality": "CT"})
    (b'\x10\x00 \x00LO\x02\x001 ', False)
    """

    def __init__(
        self,
        transfer_syntax: str,
        identifier: Dataset | None = None,
        *,
        always: Mapping[str, Any] | None = None,
        kept: Iterable[str] = (),
        charset: str | Iterable[str | None] | None = None,
    ) -> None:
        how = syntax(transfer_syntax)
        self._how = how
        self._deflated = how.deflated
        self._charset = charsets.terms(charset)
        wanted = None
        if identifier is not None:
            wanted = wanted_by(identifier)
            self._charset = self._charset or charsets.terms(identifier.get("SpecificCharacterSet"))
        for keyword in always or {}:
            keyword_tag(keyword)
        self._encoder = Encoder(how, wanted, always, kept)

    def encode(self, row: Row) -> tuple[bytes, bool]:
        """The data set of one row, and whether the row has all requested keys.

        Parameters
        ----------
        row : mapping of str or Dataset
            The match.

        Returns
        -------
        bytes
            The data set, with a Specific Character Set only if it needs one.
        bool
            False if a requested key is not in the row: the response is then Pending with warning,
            0xFF01.

        Raises
        ------
        DataSetError
            An unknown keyword, or a value that does not fit its VR.
        """
        body, complete = _in_a_charset(self._encoder, row, self._charset, charsets.DEFAULT)
        return (_deflate(body) if self._deflated else body), complete

    def encode_what_fits(self, row: Row) -> tuple[bytes, list[str]]:
        r"""The data set of a row, without the values that cannot be written.

        Parameters
        ----------
        row : mapping of str or Dataset
            A row that `encode` has refused.

        Returns
        -------
        bytes
            The data set.
        list of str
            The keywords of the values left out, at any depth.

        Raises
        ------
        DataSetError
            An unknown keyword, or an object that is not a row.

        Examples
        --------
        >>> asked = Dataset()
        >>> asked.PatientID = asked.PatientSize = ""
        >>> row = {"PatientID": "1", "PatientSize": float("nan")}
        >>> RowEncoder("1.2.840.10008.1.2.1", asked).encode_what_fits(row)
        (b'\x10\x00 \x00LO\x02\x001 ', ['PatientSize'])
        """
        kept, lost = what_fits(row, self._how)
        return self.encode(kept)[0], lost


def _in_a_charset(
    encoder: Encoder, row: Row, preferred: tuple[str, ...], ascii_as: tuple[str, ...]
) -> tuple[bytes, bool]:
    try:
        try:
            return encoder.data_set(row, charsets.DEFAULT, ascii_as, ())
        except UnicodeEncodeError:
            pass
        if preferred:
            try:
                return encoder.data_set(row, preferred, preferred, ())
            except UnicodeEncodeError:
                pass
        return encoder.data_set(row, charsets.UTF8, charsets.UTF8, ())
    except RecursionError:
        raise DataSetError("sequences are nested too deeply") from None


def _deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = compressor.compress(body) + compressor.flush()
    return deflated + b"\0" if len(deflated) & 1 else deflated
