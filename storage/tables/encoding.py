"""Which text encoding a file is in."""

import codecs
import re
from collections.abc import Iterator

from charset_normalizer import from_bytes

from storage.errors import InvalidInputError
from storage.tables.sources import CHUNK_BYTES, SourceFile

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

LEGACY_ENCODINGS = [
    "cp1252", "mac_roman", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256",
    "koi8_r", "cp932", "gb18030", "big5", "euc_jp", "euc_kr",
]  # fmt: skip

SAMPLE_BYTES = 200_000
SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
NOT_ASCII = re.compile(rb"[\x80-\xff]")
WESTERN = re.compile(
    r"[\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u20ac\u0152\u0153"
    r"\u00a0-\u00cf\u00d1-\u00dc\u00df-\u00ef\u00f1-\u00fc\u00ff]"
)
"""Letters and quotation marks of Western Europe, without the Icelandic ones, whose places Turkish takes."""
FOREIGN_LETTERS = re.compile(r"[\u00c0-\u00ff]+")


def choices(detected: str) -> list[str]:
    """Encodings that a user may choose from, the one that was found first."""
    return list(dict.fromkeys([detected, "utf-8", "utf-16", "cp1252", "latin-1", *LEGACY_ENCODINGS[1:]]))


def detect_encoding(source: SourceFile) -> str:
    """Name of the encoding that reads the whole file.

    UTF-8 is proven over all bytes; only a file that is not UTF-8 is guessed from a sample of its other characters.

    Raises:
        InvalidInputError: It is UTF-8 with damaged characters, or no encoding fits.
    """
    with source.opened() as file:
        head = file.read(CHUNK_BYTES)
    found = encoding_of_head(head)
    if found is not None and found != "utf-8":
        return found
    broken_line = _first_line_not_utf8(source)
    if broken_line is None:
        return "utf-8"
    sample = _sample(source)
    _refuse_damaged_utf8(source, sample, broken_line)
    return _legacy_encoding(sample)


def encoding_of_head(head: bytes) -> str | None:
    """The encoding by the beginning of a file alone; UTF-8 may still be wrong about what follows, None is not UTF-8."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    if wide := _wide_encoding(head):
        return wide
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return "utf-8"


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 without a mark: every second byte of Western text is zero."""
    even, odd = head[0:4096:2], head[1:4096:2]
    if not odd:
        return None
    if odd.count(0) > 0.4 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    if even.count(0) > 0.4 * len(even) and odd.count(0) < 0.1 * len(odd):
        return "utf-16-be"
    return None


def _chunks(source: SourceFile) -> Iterator[bytes]:
    with source.opened() as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _first_line_not_utf8(source: SourceFile) -> int | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 1
    for chunk in _chunks(source):
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            return lines + error.object[: error.start].count(b"\n")
        lines += text.count("\n")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return lines
    return None


def _sample(source: SourceFile) -> bytes:
    """The lines that are not plain ASCII, up to a few hundred kilobytes: they alone tell encodings apart."""
    sample = bytearray()
    for chunk in _chunks(source):
        for line in re.split(rb"(?<=[\r\n])", chunk):
            if NOT_ASCII.search(line):
                sample += line[:SAMPLE_BYTES]
        if len(sample) >= SAMPLE_BYTES:
            break
    return bytes(sample[:SAMPLE_BYTES])


def _refuse_damaged_utf8(source: SourceFile, sample: bytes, line: int) -> None:
    if SURROGATE.search(sample):
        raise InvalidInputError(
            f"Line {line} of {source.name} holds half of a character (a lone surrogate), which is no text. "
            "Remove it, or save the file again as UTF-8 from the program that made it."
        )
    whole = sum(len(match[0]) for match in MULTIBYTE.finditer(sample))
    if whole > 0.9 * len(NOT_ASCII.findall(sample)):
        raise InvalidInputError(
            f"{source.name} is UTF-8, but line {line} holds bytes that are not. "
            "Repair that line, or save the file again as UTF-8."
        )


def _legacy_encoding(sample: bytes) -> str:
    # Statistics on a few accented letters go astray between the code pages of one alphabet; letters do not.
    for encoding in ("cp1252", "mac_roman"):
        if _is_western(sample, encoding):
            return encoding
    best = from_bytes(sample, cp_isolation=LEGACY_ENCODINGS, preemptive_behaviour=False).best()
    return "latin-1" if best is None else str(best.encoding)


def _is_western(sample: bytes, encoding: str) -> bool:
    """Whether nearly all that is not ASCII becomes Western letters and quotation marks, hardly three in a row."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    other = [character for character in text if character > "\x7f"]
    if sum(map(bool, map(WESTERN.match, other))) <= 0.98 * len(other):
        return False
    runs = FOREIGN_LETTERS.findall(text)
    return sum(len(run) > 2 for run in runs) <= 0.02 * len(runs)
