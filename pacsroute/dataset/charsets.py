"""Text between Python and the character sets of DICOM, in both directions.

PS3.3 C.12.1.1.2 names the sets, PS3.5 §6.1.2 says how their bytes are read. Here, a character set
is the tuple of its terms in the standard's spelling; `terms` makes it from the value of a peer, a
row or pydicom.

`decode` never raises. Unknown terms count as the default repertoire; bytes that are not in the set
become the Latin-1 characters of the same value, so that no information is lost. `encode` is strict:
it raises `UnicodeEncodeError` rather than lose a character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

ESC = 0x1B

DEFAULT: tuple[str, ...] = ()
"""The default repertoire, ISO-IR 6: the set of a data set without a term."""

UTF8: tuple[str, ...] = ("ISO_IR 192",)
"""The set with every character; encoders fall back to it."""


class _Set(NamedTuple):
    """The character set of an escape sequence (PS3.3 tables C.12-3 and C.12-4).

    The Python codec reads the same bytes with the high bit set; its code words have `width` bytes
    after `prefix`, which is EUC's single shift and not part of the word.
    """

    term: str
    escape: bytes
    codec: str
    half: int
    width: int
    prefix: bytes = b""
    absent: frozenset[str] = frozenset()


_ASCII = _Set("6", b"\x1b(B", "ascii", 0, 1)
_ROMAJI = _Set("14", b"\x1b(J", "ascii", 0, 1)

# For two sets, Python's tables follow later editions than those that DICOM registers.
_G1 = (
    _Set("100", b"\x1b-A", "iso8859_1", 1, 1),
    _Set("101", b"\x1b-B", "iso8859_2", 1, 1),
    _Set("109", b"\x1b-C", "iso8859_3", 1, 1),
    _Set("110", b"\x1b-D", "iso8859_4", 1, 1),
    _Set("144", b"\x1b-L", "iso8859_5", 1, 1),
    _Set("127", b"\x1b-G", "iso8859_6", 1, 1),
    _Set("126", b"\x1b-F", "iso8859_7", 1, 1, absent=frozenset("€\u20af\u037a")),
    _Set("138", b"\x1b-H", "iso8859_8", 1, 1, absent=frozenset("\u200e\u200f")),
    _Set("148", b"\x1b-M", "iso8859_9", 1, 1),
    _Set("203", b"\x1b-b", "iso8859_15", 1, 1),
    _Set("166", b"\x1b-T", "tis_620", 1, 1),
    _Set("13", b"\x1b)I", "shift_jis", 1, 1),
    _Set("149", b"\x1b$)C", "euc_kr", 1, 2),
    _Set("58", b"\x1b$)A", "gb2312", 1, 2),
)
_G0 = (
    _Set("87", b"\x1b$B", "euc_jp", 0, 2),
    _Set("159", b"\x1b$(D", "euc_jp", 0, 2, b"\x8f"),
)
_BY_NUMBER = {s.term: s for s in (*_G1, *_G0)}
_BY_ESCAPE = {s.escape: s for s in (_ASCII, _ROMAJI, *_G1, *_G0)} | {b"\x1b$@": _G0[0]}
_EXTENSION_ONLY = {"87", "159", "149", "58"}

SUPPORTED = (
    "ISO_IR 6",
    *(f"ISO_IR {s.term}" for s in _G1 if s.width == 1),
    *(f"ISO 2022 IR {s.term}" for s in (_ASCII, *_G1, *_G0)),
    *("ISO_IR 192", "GB18030", "GBK"),
)
"""The supported defined terms (PS3.3 C.12.1.1.2)."""

# Without code extensions, one Python codec reads the whole value; ISO_IR 13 is left out, since JIS
# X 0201 is only a part of Shift-JIS.
_WHOLE = {"ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk"}
_SINGLE = {
    (f"{prefix} {s.term}",): s
    for s in _G1
    if s.width == 1 and s.term != "13"
    for prefix in ("ISO_IR", "ISO 2022 IR")
}
_LENIENT = {"gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932", "gb2312": "gbk"}

_ALIASES = {
    "UTF8": "ISO_IR 192",
    "UNICODE": "ISO_IR 192",
    "UNICODE11": "ISO_IR 192",
    "GB18030": "GB18030",
    "GBK": "GBK",
    "CP936": "GBK",
    "ISO2022GBK": "GBK",
    "GB2312": "GBK",
    "EUCKR": "ISO 2022 IR 149",
    "KSC5601": "ISO 2022 IR 149",
    "SHIFTJIS": "ISO_IR 13",
    "SJIS": "ISO_IR 13",
    "CP932": "ISO_IR 13",
    "MS932": "ISO_IR 13",
    "ISO2022JP": "ISO 2022 IR 87",
    "ISO2022JP2": "ISO 2022 IR 159",
    "LATIN1": "ISO_IR 100",
    "WINDOWS1252": "ISO_IR 100",
    "CP1252": "ISO_IR 100",
    # pydicom's name for the default repertoire, not Latin-1 as in Python
    "ISO8859": "ISO_IR 6",
    "ASCII": "ISO_IR 6",
    "USASCII": "ISO_IR 6",
}
_ISO_8859 = dict(
    zip(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15),
        (100, 101, 109, 110, 144, 127, 126, 138, 148, 166, 203),
        strict=True,
    )
)
_REMEMBERED = 512  # maximum characters of a cached Specific Character Set; real ones have up to 150
_NUMBER = re.compile(r"(ISO)?(2022)?(IR)?(\d+)$")


def _to_latin_1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin_1"), error.end


codecs.register_error("pacsroute.latin1", _to_latin_1)


def terms(value: str | Iterable[str | None] | None) -> tuple[str, ...]:
    r"""The terms of a Specific Character Set, in the standard's spelling.

    Misspelt terms ("ISO-IR 100", "ISO_IR_192", "ISO 2022 100", "UTF-8", "ISO 8859-1") and pydicom's
    names of encodings are understood. A set without code extensions (UTF-8, GB18030, GBK) must be
    alone: other terms beside it are dropped. An unknown term counts as the default repertoire
    (PS3.3 C.12.1.1.2).

    Parameters
    ----------
    value : str, iterable of str, or None
        The value of (0008,0005), with backslashes between several terms or as a list.

    Returns
    -------
    tuple of str
        Empty for the default repertoire; an empty first term means the default repertoire, too.

    Examples
    --------
    >>> terms("ISO-IR 100")
    ('ISO_IR 100',)
    >>> terms(["", "ISO 2022 IR 87"])
    ('', 'ISO 2022 IR 87')
    """
    if not value:
        return DEFAULT
    if not isinstance(value, str):
        # A value with a numeric VR is not a list of terms.
        listed = value if isinstance(value, Iterable) and not isinstance(value, bytes) else ()
        value = "\\".join(str(v or "") for v in listed)
    # The peer chooses the length; the cache must not grow with it.
    return _terms(value) if len(value) <= _REMEMBERED else _terms.__wrapped__(value)


@lru_cache(1024)
def _terms(value: str) -> tuple[str, ...]:
    found = [_term(v) for v in value.split("\\")]
    for term in found[:1] if found[0] else found:
        if term in _WHOLE:
            return (term,)
    found = [found[0], *(t for t in found[1:] if t and t not in _WHOLE)]
    if found[0] == "ISO_IR 6":
        found[0] = ""
    if len(found) == 1:
        return (found[0],) if found[0] else DEFAULT
    found = [t.replace("ISO_IR", "ISO 2022 IR") for t in found]
    return tuple(dict.fromkeys(found))


def _term(text: str) -> str:
    squeezed = re.sub(r"[^A-Z0-9]", "", text.upper())
    if squeezed in _ALIASES:
        return _ALIASES[squeezed]
    if latin := re.match(r"(?:ISO)?8859(\d{1,2})$", squeezed):
        return f"ISO_IR {_ISO_8859.get(int(latin[1]), 6)}"
    if not (parts := _NUMBER.match(squeezed)):
        return ""
    number = parts[4]
    extension = parts[2] or number.startswith("2022")
    number = number.removeprefix("2022")
    if number == "192":
        return "ISO_IR 192"
    if number == "6":
        return "ISO_IR 6"
    if number not in _BY_NUMBER:
        return ""
    extended = extension or number in _EXTENSION_ONLY
    return f"ISO 2022 IR {number}" if extended else f"ISO_IR {number}"


def decode(data: bytes, charset: str | Iterable[str | None] | None = None, vr: str = "LO") -> str:
    r"""The text of the bytes of a value, several values with backslashes between them.

    A 5CH byte inside a character of GBK, GB18030, Shift-JIS or JIS X 0208 is part of that
    character, so the text may be split at its backslashes (unless backslashes are text in the VR).
    Escape sequences work even for undeclared sets. Never raises; padding is left
    where it is.

    Parameters
    ----------
    data : bytes
        The value as in the data set.
    charset : str or iterable of str, optional
        The Specific Character Set that applies to it.
    vr : str
        Decides at which delimiters code extensions are reset (PS3.5 §6.1.2.5.3).

    Examples
    --------
    >>> decode(b"\xd0\xa1\xb6\xab", "GB18030")
    '小东'
    """
    names = terms(charset)
    if names and names[0] in _WHOLE:
        return _lenient(data, _WHOLE[names[0]])
    if ESC not in data:
        if names == DEFAULT or data.isascii():
            return data.decode("latin_1")
        if names in _SINGLE:
            return data.decode(_SINGLE[names].codec, "pacsroute.latin1")
        if names[0].endswith(" 13"):
            # some peers send Shift-JIS under this term; its one-byte part is half-width katakana
            return _lenient(data, "shift_jis")
    return _decode_extended(data, names, vr)


def _lenient(data: bytes, codec: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return data.decode(_LENIENT.get(codec, codec), "pacsroute.latin1")


# Text is decoded in runs of one code element. In G0, multi-byte sets use the bytes 21H to 7EH,
# including the backslash.
_RUN = re.compile(rb"\x1b(?:\$[()][A-D]|\$[@B]|[-()][A-Za-z])|[\x80-\xff]+|[\x00-\x7f]")
_PAIRS = re.compile(rb"(?:[\x21-\x7e]{2})+")
_SINGLES = re.compile(rb"[\x00-\x1a\x1c-\x7f]+")
_HIGH = bytes(byte | 0x80 for byte in range(256))
_DELIMITERS = {vr: frozenset(b"\r\n\f\t") for vr in ("ST", "LT", "UT")} | {
    "PN": frozenset(b"\r\n\f\t\\^=")
}
_OTHER_DELIMITERS = frozenset(b"\r\n\f\t\\")


def _initial(names: tuple[str, ...]) -> tuple[_Set, _Set | None]:
    """The contents of G0 and G1 by value 1 of the Specific Character Set."""
    g1 = _BY_NUMBER.get(names[0].rpartition(" ")[2]) if names else None
    if g1 is None or not g1.half:
        return _ASCII, None
    return (_ROMAJI if g1.term == "13" else _ASCII), g1


def _decode_extended(data: bytes, names: tuple[str, ...], vr: str) -> str:
    first0, first1 = _initial(names)
    g0, g1 = first0, first1
    declared = (_BY_NUMBER.get(n.rpartition(" ")[2]) for n in names)
    # Some peers send bytes of G1 after a delimiter without designating a set again: they are most
    # likely of the set that was designated before the delimiter.
    spare = next((s for s in declared if s and s.half), None)
    delimiters = _DELIMITERS.get(vr, _OTHER_DELIMITERS)
    out: list[str] = []
    at, end = 0, len(data)
    while at < end:
        byte = data[at]
        if g0.width == 2 and (pairs := _PAIRS.match(data, at)):
            out.append(_decode_pairs(pairs.group(), g0))
            at = pairs.end()
            continue
        run = (_SINGLES.match(data, at) if g0.width == 1 else None) or _RUN.match(data, at)
        piece = run.group() if run else data[at : at + 1]
        at += len(piece)
        if byte == ESC and piece in _BY_ESCAPE:
            designated = _BY_ESCAPE[piece]
            if designated.half:
                g1 = spare = designated
            else:
                g0 = designated
        elif byte >= 0x80:
            codec = (g1 or spare or _G1[0]).codec
            out.append(_lenient(piece, codec))
        else:
            out.append(piece.decode("latin_1"))
            if not delimiters.isdisjoint(piece):
                g0, g1 = first0, first1
    return "".join(out)


def _decode_pairs(pairs: bytes, g0: _Set) -> str:
    """Decode code words of two bytes; a code word outside the set is read as Latin-1."""
    words = [pairs[at : at + 2] for at in range(0, len(pairs), 2)]
    high = pairs.translate(_HIGH)
    if g0.prefix:
        high = b"".join(g0.prefix + word.translate(_HIGH) for word in words)
    try:
        return high.decode(g0.codec)
    except UnicodeDecodeError:
        if len(words) == 1:
            return pairs.decode("latin_1")
    return "".join(_decode_pairs(word, g0) for word in words)


def encode(text: str, charset: str | Iterable[str | None] | None = None, vr: str = "LO") -> bytes:
    r"""The bytes of a text in a character set, without padding.

    Parameters
    ----------
    text : str
        One value, or several with backslashes between them.
    charset : str or iterable of str, optional
        The Specific Character Set to write in.
    vr : str
        Decides before which delimiters the initial sets are restored (PS3.5
        §6.1.2.5.3).

    Raises
    ------
    UnicodeEncodeError
        A character is not in the set. UTF-8 has every character; a lone surrogate, which is not a
        character, becomes a question mark.

    Examples
    --------
    >>> encode("Hong^Gildong=洪^吉洞", ["", "ISO 2022 IR 149"], "PN")
    b'Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7'
    """
    if text.isascii():
        return text.encode("ascii")
    names = terms(charset)
    if names == DEFAULT:
        return text.encode("ascii")
    if names[0] in _WHOLE:
        codec = _WHOLE[names[0]]
        return text.encode(codec, "replace" if codec == "utf_8" else "strict")
    if names in _SINGLE:
        single = _SINGLE[names]
        if not single.absent.isdisjoint(text):
            raise UnicodeEncodeError(single.codec, text, 0, len(text), "not in this edition")
        return text.encode(single.codec)
    return _encode_extended(text, names, vr)


@lru_cache(16384)
def _word(char: str, candidate: _Set) -> bytes | None:
    """The code word of a character in a set, None if it has none."""
    if char in candidate.absent:
        return None
    try:
        word = char.encode(candidate.codec)
    except UnicodeEncodeError:
        return None
    # Python's codecs cover more than the set: ASCII, JIS X 0212 after a single shift,
    # KS X 1001 syllables put together from eight bytes.
    body = word[len(candidate.prefix) :]
    if not word.startswith(candidate.prefix) or len(body) != candidate.width or body[0] < 0x80:
        return None
    if candidate.width == 2 and min(body) < 0xA1:
        return None
    if not candidate.half:
        body = bytes(b & 0x7F for b in body)
    return body


def _encode_extended(text: str, names: tuple[str, ...], vr: str) -> bytes:
    first0, first1 = _initial(names)
    if first1 and first1.width == 2:
        # not allowed in value 1, so some readers do not have it in G1 initially
        first1 = None
    g0, g1 = first0, first1
    usable = [s for n in names if (s := _BY_NUMBER.get(n.rpartition(" ")[2]))]
    delimiters = _DELIMITERS.get(vr, _OTHER_DELIMITERS)
    out = bytearray()
    for index, char in enumerate(text):
        code = ord(char)
        if code < 0x80:
            if g0 is not first0:
                out += first0.escape
                g0 = first0
            if code in delimiters:
                if g1 is not first1 and first1 is not None:
                    out += first1.escape
                g1 = first1
            elif code == ESC:
                raise UnicodeEncodeError("iso2022", text, index, index + 1, "escape")
            out.append(code)
            continue
        for candidate in (g0, g1, *usable):
            if candidate and (word := _word(char, candidate)) is not None:
                break
        else:
            raise UnicodeEncodeError("iso2022", text, index, index + 1, "in none of the sets")
        if candidate.half and candidate is not g1:
            g1 = candidate
            out += candidate.escape
        elif not candidate.half and candidate is not g0:
            g0 = candidate
            out += candidate.escape
        out += word
    if g0 is not first0:
        out += first0.escape
    if g1 is not first1 and first1 is not None:
        out += first1.escape
    return bytes(out)
