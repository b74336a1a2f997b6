"""Which files hold dialogues, what others are, and the text of one."""

import codecs
from pathlib import Path

from dialogsum_sft.data.columns import text_of
from dialogsum_sft.data.row_files import SUFFIXES, suffix_of

_TEXTS = (".txt", ".vtt", ".srt", ".md", ".log", ".text")
KINDS = ", ".join(dict.fromkeys((*_TEXTS, *SUFFIXES)))
_IMAGE, _SOUND = "an image, not text", "a recording, not text: transcribe it first"
_NO_TEXTS = {
    b"%PDF-": "a PDF: save its text as .txt",
    b"PK\x03\x04": "a zip, Word or Excel file: save it as .txt, or a table as .csv",
    b"\xd0\xcf\x11\xe0": "an old Word or Excel file: save it as .txt, or a table as .csv",
    b"{\\rtf": "an RTF document: save it as .txt",
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), _IMAGE),
    **dict.fromkeys((b"ID3", b"OggS", b"fLaC", b"RIFF"), _SOUND),
}


def has_dialogues(path: Path) -> bool:
    """Whether a file is one to summarise, by the end of its name."""
    return bool(suffix_of(path)) or Path(path.name.lower().removesuffix(".gz")).suffix in _TEXTS


def why_not(path: Path) -> str:
    """Why a file without the name of one with dialogues is not used."""
    try:
        with path.open("rb") as file:
            check_kind(file.read(8))
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return f"its name has none of the endings {KINDS}"


def check_kind(content: bytes) -> None:
    """Raises ValueError for the beginning of what is known to be no text."""
    for start, what in _NO_TEXTS.items():
        if content.startswith(start):
            raise ValueError(f"this is {what}")


def decoded(content: bytes) -> str:
    """The text of a file. Raises ValueError for what is no text."""
    check_kind(content)
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return text_of(content.decode("utf-32", errors="replace"), "the text")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Windows' editors and Teams
        return text_of(content.decode("utf-16", errors="replace"), "the text")
    if b"\0" in content:
        raise ValueError("this is no text, but a binary file (or UTF-16 without a mark: save it as UTF-8)")
    try:
        return text_of(content.decode("utf-8-sig"), "the text")
    except UnicodeDecodeError as error:
        raise ValueError(f"this is no UTF-8 text (byte {error.start}): save it as UTF-8") from error
