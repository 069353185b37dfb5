"""Decode bytes to characters, chunk by chunk, in constant memory."""

import codecs
import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

from charlm.config import CorpusSettings
from charlm.corpus.streams import CHUNK_BYTES, Stream
from charlm.errors import CharlmWarning, TextError, UsageError

HEAD_BYTES = 1 << 12  # examined to distinguish text from binary files
SAMPLE_BYTES = 1 << 16  # around an undecodable byte, to try other encodings
MULTIBYTE = ("utf-8", "gb18030", "shift_jis", "euc-kr", "cp1251")
SINGLE_BYTE = ("cp1252", "latin-1")

# Characters before which text can be split without changing its NFC form, because they never combine with a preceding
# character. Not exhaustive, but covers all scripts written without spaces or in long lines; each is tested.
_SAFE_BOUNDARY = re.compile(
    r"[\x00-\u02ff\u0370-\u0482\u048a-\u0590\u05d0-\u05ea\u0620-\u064a\u0904-\u0939\u0985-\u09b9\u0b85-\u0bb9"
    r"\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff\uac00-\ud7a3\U0001f300-\U0001faff]"
)


def decode_stream(stream: Stream, path: Path, settings: CorpusSettings) -> Iterator[str]:
    """Decode a stream of bytes in pieces of about a megabyte; with ``unit`` byte, each byte becomes the character of
    its value.

    Line endings are kept unless ``settings.newline`` says otherwise; a byte order mark is removed. Raises ``TextError``
    naming the file, offset and line of an undecodable byte, and encodings that would work.
    """
    if settings.unit == "byte":
        while data := stream.read(CHUNK_BYTES):
            yield data.decode("latin-1")
        return
    yield from _normalize_pieces(_decode(stream, path, settings), settings)


def codec_name(encoding: str) -> str:
    """Python's name of a text encoding. Raises ``UsageError`` if there is none."""
    try:
        found = codecs.lookup(encoding)
        if found._is_text_encoding and found.name != "undefined":
            return found.name
    except (LookupError, ValueError):  # no such name, or nothing that can be a name
        pass
    raise UsageError(f"--encoding {encoding}: unknown text encoding.", "Common ones: utf-8, latin-1, cp1252.")


def allows_nul(codec: str) -> bool:
    """Whether valid text in this encoding contains NUL bytes."""
    return codec.startswith(("utf-16", "utf-32"))


def looks_binary(data: bytes) -> bool:
    """Whether bytes look binary: they contain NUL, and no byte order mark explains it."""
    return b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))


def normalize_text(text: str, settings: CorpusSettings) -> str:
    """Apply the newline and Unicode normalization settings to a string (no effect for byte-level models)."""
    return "".join(_normalize_pieces(iter([text]), settings))


def _normalize_pieces(pieces: Iterator[str], settings: CorpusSettings) -> Iterator[str]:
    if settings.newline == "lf":
        pieces = _normalize_newlines(pieces)
    if settings.normalize == "nfc":
        pieces = _normalize_nfc(pieces)
    return pieces


def _decode(stream: Stream, path: Path, settings: CorpusSettings) -> Iterator[str]:
    codec = codec_name(settings.encoding)
    errors = "strict" if settings.decode_errors == "error" else "replace"
    decoder = codecs.getincrementaldecoder(codec)(errors)
    started, offset, lines = False, 0, 1
    data = b"more"
    while data:
        data = stream.read(CHUNK_BYTES)
        pending = decoder.getstate()[0]
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _decode_error(path, codec, pending + data, error.start, offset - len(pending), lines) from None
        except UnicodeError:  # utf-16 and utf-32 without a byte order mark
            raise _decode_error(path, codec, pending + data, 0, offset - len(pending), lines) from None
        if not offset and data[:HEAD_BYTES].count(0) > HEAD_BYTES // 100 and not allows_nul(codec):
            message = f"{path}: looks like a binary file; a byte-level model (--unit byte) reads any file."
            warnings.warn(message, CharlmWarning, stacklevel=2)
        offset += len(data)
        lines += text.count("\n")
        if text and not started:
            started, text = True, text.removeprefix("\ufeff")
        if text:
            yield text


def _normalize_newlines(pieces: Iterator[str]) -> Iterator[str]:
    decoder = io.IncrementalNewlineDecoder(None, translate=True)
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode("", final=True)


def _normalize_nfc(pieces: Iterator[str]) -> Iterator[str]:
    pending: list[str] = []  # since the last safe boundary
    for piece in pieces:
        cut = next(
            (len(piece) - i - 1 for i, character in enumerate(reversed(piece)) if _SAFE_BOUNDARY.match(character)), -1
        )
        if cut >= 0:
            yield unicodedata.normalize("NFC", "".join([*pending, piece[:cut]]))
            pending = []
        pending.append(piece[max(cut, 0) :])
    yield unicodedata.normalize("NFC", "".join(pending))


def _decode_error(path: Path, codec: str, data: bytes, position: int, before: int, lines: int) -> TextError:
    """``position`` is an index into ``data``, which starts at byte ``before`` of the text, in line ``lines``."""
    byte = f"byte 0x{data[position]:02x}" if position < len(data) else "end of file"
    line = lines + data.count(b"\n", 0, position)
    line_start = data.rfind(b"\n", 0, position) + 1  # splits between two characters, unlike other positions
    sample = data[max(line_start, position - SAMPLE_BYTES // 2) : position + SAMPLE_BYTES // 2]
    if looks_binary(sample) and not allows_nul(codec):
        hint = "It looks like a binary file, which only a byte-level model can read (train with --unit byte)."
    else:
        hint = f"Try --encoding {' or '.join(_candidate_encodings(sample))}, or train with --decode-errors replace."
    return TextError(f"{path}: invalid {codec}: {byte} at offset {before + position:,} (line {line:,}).", hint)


def _candidate_encodings(sample: bytes) -> list[str]:
    """Encodings that can decode a sample, the likeliest first, judging by its share of non-ASCII bytes."""
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ["utf-16"]
    is_mostly_non_ascii = sum(byte >= 0x80 for byte in sample) > 0.3 * len(sample)
    order = (*MULTIBYTE, *SINGLE_BYTE) if is_mostly_non_ascii else ("utf-8", *SINGLE_BYTE, *MULTIBYTE[1:])
    return [codec for codec in order if any(_decodes(sample[cut:], codec) for cut in range(4))][:3]


def _decodes(sample: bytes, codec: str) -> bool:
    try:
        codecs.getincrementaldecoder(codec)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True
