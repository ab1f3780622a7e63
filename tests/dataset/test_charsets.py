"""Character sets: the standard's examples, peers' mistakes, and round trips."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_charset_files

from pacsroute.dataset import charsets

TEXT_VRS = ("SH", "LO", "ST", "LT", "UC", "UT", "PN")

# PS3.5 Annexes H (Japanese), I (Korean), J (Chinese, UTF-8 and GB18030), K (Chinese, GB2312)
EXAMPLES = [
    (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"
        b"=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    (
        ["ISO_IR 192"],
        b"Wang^XiaoDong=\xe7\x8e\x8b^\xe5\xb0\x8f\xe6\x9d\xb1=",
        "Wang^XiaoDong=王^小東=",
    ),
    (["GB18030"], b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", "Wang^XiaoDong=王^小东="),
    (
        ["", "ISO 2022 IR 58"],
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
]

SINGLE = {
    "ISO_IR 100": "iso8859_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 203": "iso8859_15",
    "ISO_IR 166": "tis_620",
    "ISO_IR 13": "shift_jis",
}
EXTENDED = [
    "ISO 2022 IR 6",
    *(t.replace("ISO_IR", "ISO 2022 IR") for t in SINGLE),
    "ISO 2022 IR 87",
    "ISO 2022 IR 159",
    "ISO 2022 IR 149",
    "ISO 2022 IR 58",
]
WHOLE = {"ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk"}


def repertoire(codec: str) -> list[str]:
    """What a set has above 7FH, without what Python's later editions add to it."""
    later = "\u20ac\u20af\u037a" if codec == "iso8859_7" else "\u200e\u200f"
    characters = (bytes([b]).decode(codec, "ignore") for b in range(0xA1, 0x100))
    return [c for c in characters if c and c not in later]


EVERYTHING = (
    sorted({c for codec in SINGLE.values() for c in repertoire(codec)})
    + list("山田太郎ソ表能―\uff0b一丂丄김희중洪吉洞홍길동王小东张¥‾")
    + list("AZaz 09^=\\~\r\n\t\f")
)


@pytest.mark.parametrize(("charset", "data", "text"), EXAMPLES)
def test_the_examples_of_the_standard_in_both_directions(charset, data, text):
    assert charsets.decode(data, charset, "PN") == text
    assert charsets.encode(text, charset, "PN") == data


@pytest.mark.parametrize("path", get_charset_files("*.dcm"), ids=lambda p: Path(p).name)
def test_the_files_of_pydicom_decode_and_encode_again(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)

        def check(ds, charset):
            if "SpecificCharacterSet" in ds:
                charset = charsets.terms(ds["SpecificCharacterSet"].value)
            for tag in list(ds.keys()):
                raw = ds.get_item(tag)
                element = ds[tag]
                if element.VR == "SQ":
                    for item in element.value:
                        check(item, charset)
                elif element.VR in TEXT_VRS and raw.is_raw and raw.value:
                    text = charsets.decode(raw.value, charset, element.VR)
                    value = element.value
                    many = isinstance(value, pydicom.multival.MultiValue)
                    expected = "\\".join(map(str, value)) if many else str(value)
                    assert text.rstrip(" \0=").replace("=\\", "\\") == expected.rstrip("=")
                    again = charsets.encode(text, charset, element.VR)
                    assert charsets.decode(again, charset, element.VR) == text

        check(dataset, ())


@pytest.mark.parametrize("vr", TEXT_VRS)
@pytest.mark.parametrize(("term", "codec"), SINGLE.items())
@given(data=st.data())
def test_single_byte_sets_round_trip(term, codec, vr, data):
    alphabet = repertoire(codec) + list("Aa1 ^=")
    text = data.draw(st.text(st.sampled_from(alphabet)))
    encoded = charsets.encode(text, term, vr)
    assert encoded == text.encode(codec)
    assert charsets.decode(encoded, term, vr) == text


@pytest.mark.parametrize(("term", "codec"), WHOLE.items())
@given(text=st.text(st.characters(codec="utf-8")))
def test_whole_sets_round_trip_or_refuse(term, codec, text):
    try:
        encoded = charsets.encode(text, term)
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            text.encode(codec)
    else:
        assert charsets.decode(encoded, term) == text


@given(
    text=st.text(st.sampled_from(EVERYTHING)),
    charset=st.lists(st.sampled_from(["", *EXTENDED]), min_size=1, max_size=5),
    vr=st.sampled_from(TEXT_VRS),
)
def test_code_extensions_lose_nothing_or_refuse(text, charset, vr):
    try:
        encoded = charsets.encode(text, charset, vr)
    except UnicodeEncodeError:
        return
    assert charsets.decode(encoded, charset, vr) == text


@given(
    data=st.binary()
    | st.lists(
        st.sampled_from([b"\x1b", b"\x1b$B", b"\x1b(J", b"\x1b$)C", b"\\", b"\x81", b"a"])
    ).map(b"".join),
    charset=st.lists(st.text(max_size=12) | st.sampled_from([*EXTENDED, *WHOLE, *SINGLE, ""])),
    vr=st.sampled_from([*TEXT_VRS, "CS", "??"]),
)
def test_decoding_never_raises(data, charset, vr):
    assert isinstance(charsets.decode(data, charset, vr), str)


@given(st.binary())
def test_undeclared_bytes_are_kept(data):
    if b"\x1b" not in data:
        assert charsets.decode(data).encode("latin_1") == data


def test_text_with_all_character_sets_at_once():
    text = "Ä김희중山田ﾔﾏ丂Ж張王^é=\\김"
    charset = ["ISO 2022 IR 100", *EXTENDED[1:]]
    assert charsets.decode(charsets.encode(text, charset, "PN"), charset, "PN") == text


def test_a_character_outside_every_set_is_refused_not_replaced():
    for charset in (None, "ISO_IR 100", "ISO_IR 13", ["", "ISO 2022 IR 149"], "GBK"):
        with pytest.raises(UnicodeEncodeError):
            charsets.encode("\U0001f600", charset)
    with pytest.raises(UnicodeEncodeError):
        charsets.encode("€", "ISO_IR 126")
    assert charsets.encode("€", "ISO_IR 203") == b"\xa4"


def test_5c_inside_a_character_is_no_separator():
    assert charsets.decode("癨".encode("gbk") + b"\\CT", "GBK").split("\\") == ["癨", "CT"]
    assert charsets.decode("癨".encode("gb18030"), "GB18030") == "癨"
    assert charsets.decode("ソ表能".encode("shift_jis") + b"\\x", "ISO_IR 13") == "ソ表能\\x"
    plus = "\uff0b".encode("euc_jp")
    word = bytes(b & 0x7F for b in plus)
    assert b"\\" in word
    assert charsets.decode(b"\x1b$B" + word + b"\x1b(B\\y", ["", "ISO 2022 IR 87"]) == "\uff0b\\y"


def test_g0_and_g1_are_independent():
    data = b"\x1b$)C\xb1\xe8\x1b(B\xb1\xe8"
    assert charsets.decode(data, ["", "ISO 2022 IR 149"]) == "김김"


def test_delimiters_reset_code_extensions():
    charset = ["ISO 2022 IR 100", "ISO 2022 IR 149"]
    data = b"\x1b$)C\xb1\xe8^\xe9"
    assert charsets.decode(data, charset, "PN") == "김^é"
    assert charsets.decode(b"\x1b$)C\xb1\xe8\r\n\xe9", charset, "LT") == "김\r\né"
    assert charsets.decode(b"\x1b$)C\xb1\xe8\\\xe9", charset, "LO") == "김\\é"


def test_wrong_bytes_become_latin_1():
    assert charsets.decode(b"J\xe9r\xf4me", "ISO_IR 192") == "Jérôme"
    assert charsets.decode(b"\x80\xff", "GB18030").endswith("ÿ")


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, ()),
        ("", ()),
        ("ISO_IR 6", ()),
        ("nonsense", ()),
        ("zlib", ()),
        ("ISO-IR 100", ("ISO_IR 100",)),
        ("ISO IR 100", ("ISO_IR 100",)),
        ("iso_ir_192", ("ISO_IR 192",)),
        ("ISO_IR_192", ("ISO_IR 192",)),
        ("UTF-8", ("ISO_IR 192",)),
        ("ISO 2022 100", ("ISO 2022 IR 100",)),
        ("ISO2022 IR100", ("ISO 2022 IR 100",)),
        ("ISO-2022-JP", ("ISO 2022 IR 87",)),
        ("ISO 2022 GBK", ("GBK",)),
        ("ISO 2022 58", ("ISO 2022 IR 58",)),
        ("ISO 8859-1", ("ISO_IR 100",)),
        ("iso8859_5", ("ISO_IR 144",)),
        ("ISO_IR 192\\ISO 2022 IR 100", ("ISO_IR 192",)),
        ("\\ISO_IR 192", ("ISO_IR 192",)),
        ("ISO_IR 100\\ISO 2022 IR 87", ("ISO 2022 IR 100", "ISO 2022 IR 87")),
        ("\\ISO 2022 IR 87", ("", "ISO 2022 IR 87")),
        ("ISO 2022 IR 6\\ISO 2022 IR 87", ("", "ISO 2022 IR 87")),
        (["ISO_IR 100 ", None], ("ISO_IR 100",)),
        (["iso8859", "iso2022_jp"], ("", "ISO 2022 IR 87")),
        (["UTF8"], ("ISO_IR 192",)),
        ("latin_1", ("ISO_IR 100",)),
        (["iso_ir_126"], ("ISO_IR 126",)),
    ],
)
def test_defined_terms_of_character_sets(sent, meant):
    assert charsets.terms(sent) == meant


PIECES_OF_TEXT = [
    *(b"\x1b$B", b"\x1b$(D", b"\x1b(J", b"\x1b(B", b"\x1b)I", b"\x1b$)C", b"\x1b-F", b"\x1b"),
    *(b"\\", b"^", b"=", b"\r\n", b" ", b"\0", b"A", b"ab", b";3", b"EDB@", b"!!", b"\x7f"),
    *(b"\xd4\xd7", b"\xb1", b"\xc8\xab\xe4", b"\x8f\xa1\xa1", b"\x80"),
]
CODES = [(), ("", "ISO 2022 IR 87"), ("ISO 2022 IR 13", "ISO 2022 IR 159"), ("", "ISO 2022 IR 149")]


ESCAPE = re.compile(rb"\x1b(?:\$[()][A-D]|\$[@B]|[-()][A-Za-z])")


def byte_by_byte(data, names, vr):
    """Decode as PS3.5 §6.1.2.5 has it: a character at a time, with a state behind each."""
    first = g0, g1 = charsets._initial(names)
    numbers = (charsets._BY_NUMBER.get(name.rpartition(" ")[2]) for name in names)
    spare = next((found for found in numbers if found and found.half), None)
    text, at = "", 0
    while at < len(data):
        if escape := ESCAPE.match(data, at):
            at = escape.end()
            found = charsets._BY_ESCAPE.get(escape.group())
            if found is None:
                text += escape.group().decode("latin_1")
            elif found.half:
                g1 = spare = found
            else:
                g0 = found
        elif g0.width == 2 and (pair := re.compile(rb"[!-~]{2}").match(data, at)):
            at += 2
            word = g0.prefix + bytes(byte | 0x80 for byte in pair.group())
            try:
                text += word.decode(g0.codec)
            except UnicodeDecodeError:
                text += pair.group().decode("latin_1")
        elif data[at] < 0x80:
            text += chr(data[at])
            if data[at] in charsets._DELIMITERS.get(vr, charsets._OTHER_DELIMITERS):
                g0, g1 = first
            at += 1
        else:
            high = re.compile(rb"[\x80-\xff]+").match(data, at).group()
            text += charsets._lenient(high, (g1 or spare or charsets._G1[0]).codec)
            at += len(high)
    return text


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES_OF_TEXT), max_size=12).map(b"".join), st.sampled_from(CODES))
@pytest.mark.parametrize("vr", ["PN", "LO", "LT"])
def test_text_in_runs_is_read_as_it_is_byte_by_byte(vr, data, names):
    assert charsets._decode_extended(data, names, vr) == byte_by_byte(data, names, vr)


def test_megabytes_with_an_escape_are_decoded_in_no_time():
    data = b"\x1b(B" + b"a" * 10_000_000 + b"\x1b$B" + b"E;" * 1_000_000
    started = time.monotonic()
    text = charsets.decode(data, ("", "ISO 2022 IR 87"), "UT")
    assert (len(text), text[-1]) == (11_000_000, "纏")
    assert time.monotonic() - started < 5
