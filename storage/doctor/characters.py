"""Characters that came to harm before the file was uploaded, and how far that can be undone.

Text in UTF-8 that some program read as Windows-1252 or Mac Roman shows `Ã©` for `é`. Where such a run of characters
can hardly be anything else, it is turned back; a doubtful one is left alone. Knows nothing of tables.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")
"""Control characters, and byte order marks within a text. Line ends, tabs and joiners of emoji are none of them."""

WINDOWS_CONTROL = re.compile("[\x80\x82-\x8c\x8e\x91-\x9c\x9e\x9f]")
"""Control characters by number that are quotes, dashes and letters in Windows-1252."""

LOST = "\ufffd"
"""Stands where a character was lost for good."""

MAX_ROUNDS = 3
"""Some texts were misread more than once."""

LATIN_LETTERS = re.compile("[À-ÿ]")
NO_BREAK_SPACE = "\xa0"
"""The misread end of `à`."""

GENERAL_PUNCTUATION = 0xE2
"""First byte of curly quotes, dashes and the euro sign, which are misread most often."""

DOUBTFUL_ENDS = frozenset("“”‘’„‚–—…«»\xa0")
"""Characters that often stand behind an accented letter of their own accord."""


@dataclass(frozen=True)
class Misreading:
    """An encoding that UTF-8 was taken for.

    Attributes:
        byte_of: The byte behind each character.
        runs: Characters that may be UTF-8 misread, one or more in a row.
        sure_leads: Bytes that no ordinary text has in front of such characters.
        lone_leads: Bytes in front of such characters that are likely misread even where nothing else is.
        doubtful_ends: Characters behind which a single run proves nothing.
    """

    byte_of: dict[str, int]
    runs: re.Pattern[str]
    sure_leads: frozenset[int]
    lone_leads: frozenset[int]
    doubtful_ends: frozenset[str]


def _misreading(
    encoding: str, sure_leads: set[int], lone_leads: Iterable[int], doubtful_ends: frozenset[str]
) -> Misreading:
    byte_of: dict[str, int] = {}
    for byte in range(0x80, 0x100):
        character = bytes([byte]).decode(encoding, errors="replace")
        # The bytes that Windows-1252 leaves free come through as control characters of the same number.
        byte_of[chr(byte) if character == LOST else character] = byte
        if encoding == "cp1252":
            byte_of[chr(byte)] = byte

    def among(first: int, last: int) -> str:
        return "[" + "".join(re.escape(character) for character, byte in byte_of.items() if first <= byte <= last) + "]"

    rest = among(0x80, 0xBF)
    one = f"{among(0xC2, 0xDF)}{rest}|{among(0xE0, 0xEF)}{rest}{{2}}|{among(0xF0, 0xF4)}{rest}{{3}}"
    runs = re.compile(f"(?:{one})+")
    return Misreading(byte_of, runs, frozenset(sure_leads), frozenset(lone_leads), doubtful_ends)


MISREADINGS = (
    _misreading("cp1252", {0xC2, 0xC3, 0xE2, 0xEF, 0xF0}, range(0xC2, 0xF5), DOUBTFUL_ENDS),
    _misreading("mac_roman", {0xE2, 0xF0}, {0xC2, 0xC3}, DOUBTFUL_ENDS | frozenset("π∑∏∫Ω∞∆µ")),
)


def restore(text: str) -> str:
    """A text whose misread characters are themselves again, wherever that is beyond doubt.

    Args:
        text: Any text; one without such characters comes back as it is.
    """
    if text.isascii():
        return text
    for misreading in MISREADINGS:
        for _ in range(MAX_ROUNDS):
            before, text = text, _restore_once(text, misreading)
            if text == before:
                break
    return _windows_controls(text)


def may_be_misread(text: str) -> bool:
    """Whether a text holds anything that `restore` would have to look at; quick for long texts."""
    if text.isascii():
        return False
    return bool(WINDOWS_CONTROL.search(text)) or any(each.runs.search(text) for each in MISREADINGS)


def remove_control_characters(text: str) -> str:
    """A text without control characters and stray byte order marks."""
    return CONTROL.sub("", text)


def _restore_once(text: str, misreading: Misreading) -> str:
    found = [(match[0], _turned_back(match[0], misreading)) for match in misreading.runs.finditer(text)]
    if not found:
        return text
    has_sure = any(turned and _is_sure(run, turned, misreading) for run, turned in found)
    # Where everything beyond ASCII reads as misread, and some of it surely is, the rest is too.
    is_all_misread = not LATIN_LETTERS.search(misreading.runs.sub("", text))

    def choose(match: re.Match[str]) -> str:
        run = match[0]
        turned = _turned_back(run, misreading)
        if turned is None:
            return run
        is_likely = is_all_misread and (
            has_sure or run[-1] not in misreading.doubtful_ends or run[-1] == NO_BREAK_SPACE
        )
        return turned if is_likely or _is_sure(run, turned, misreading) else run

    return misreading.runs.sub(choose, text)


def _turned_back(run: str, misreading: Misreading) -> str | None:
    """The characters that a run was misread from; None where it is none that a text would hold."""
    try:
        turned = bytes(misreading.byte_of[character] for character in run).decode()
    except UnicodeDecodeError:
        return None
    # Numbers of Windows-1252's quotes and dashes: the text was misread twice, and the rest follows at the end.
    rest = WINDOWS_CONTROL.sub("", turned)
    is_odd = any(unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs") for character in rest)
    return None if is_odd else turned


def _is_sure(run: str, turned: str, misreading: Misreading) -> bool:
    lead = misreading.byte_of[run[0]]
    is_doubtful = run[-1] in misreading.doubtful_ends and lead != GENERAL_PUNCTUATION
    return len(turned) > 1 or (lead in misreading.sure_leads and not is_doubtful)


def _windows_controls(text: str) -> str:
    """Windows-1252 that was read as Latin-1 has control characters for its quotes and dashes."""
    return WINDOWS_CONTROL.sub(lambda match: match[0].encode("latin-1").decode("cp1252"), text)
