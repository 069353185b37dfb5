"""Standard benchmark corpora, downloaded from their original locations.

Results are comparable only on identical bytes, so every file is verified by checksum and discarded if it differs.
Existing files are verified and never overwritten.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector

from charlm import files, reading
from charlm.errors import CharlmError, UsageError, did_you_mean

DOWNLOAD_FOLDER = Path("data")  # the default folder for downloads
BLOCK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30  # without data; the whole download may take longer
DEFLATE = 8  # the method's number in a zip


@dataclass(frozen=True)
class DownloadableCorpus:
    """A text at a URL, plain or as the only member of a zip file; size and checksum are those of the text."""

    url: str
    size_bytes: int
    checksum_algorithm: str  # as hashlib names it
    checksum: str
    checksum_source: str
    license: str
    description: str

    @property
    def is_zipped(self) -> bool:
        return self.url.endswith(".zip")


CORPORA = {
    "tinyshakespeare": DownloadableCorpus(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        size_bytes=1_115_394,
        checksum_algorithm="sha256",
        checksum="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        checksum_source="SHA-256 as computed from the files of Karpathy, Johnson and Li 2015",
        license="public domain",
        description="40,000 lines of Shakespeare's plays, from char-rnn",
    ),
    "warandpeace": DownloadableCorpus(
        url="https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
        size_bytes=3_258_246,
        checksum_algorithm="sha256",
        checksum="fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e",
        checksum_source="SHA-256 as computed from the files of Karpathy, Johnson and Li 2015",
        license="public domain",
        description="Tolstoy's War and Peace in English",
    ),
    "enwik8": DownloadableCorpus(
        url="https://mattmahoney.net/dc/enwik8.zip",
        size_bytes=100_000_000,
        checksum_algorithm="sha1",
        checksum="57b8363b814821dc9d47aa4d41f58733519076b2",
        checksum_source="SHA-1 of the uncompressed file, from Mahoney's Large Text Compression Benchmark",
        license="CC BY-SA and GFDL",
        description="first 100 MB of a 2006 dump of English Wikipedia (XML)",
    ),
    "text8": DownloadableCorpus(
        url="https://mattmahoney.net/dc/text8.zip",
        size_bytes=100_000_000,
        checksum_algorithm="md5",
        checksum="3bea1919949baf155f99411df5fada7e",
        checksum_source="MD5 of the uncompressed file, from mattmahoney.net/dc/textdata.html",
        license="CC BY-SA and GFDL",
        description="plain text of Wikipedia, 2006: lowercase a to z and spaces",
    ),
}


class _DownloadError(Exception):
    """The response is missing or is not the expected text; the message says why."""


def download_path(name: str, folder: Path) -> Path:
    """The path of a corpus in ``folder``. Raises ``UsageError`` for an unknown name."""
    if name not in CORPORA:
        raise UsageError(f"Unknown corpus {name!r}.{did_you_mean(name, CORPORA)}", f"Available: {', '.join(CORPORA)}.")
    return folder / f"{name}.txt"


def is_downloaded(name: str, folder: Path) -> bool:
    """Whether a corpus is in ``folder``. Raises ``CharlmError`` if its path has different content."""
    path, corpus = download_path(name, folder), CORPORA[name]
    try:
        if not path.exists():
            return False
        with reading.open_regular(path) as file:
            checksum = hashlib.file_digest(file, lambda: _new_hash(corpus)).hexdigest()
    except OSError as error:
        raise CharlmError(
            f"{path}: cannot be read: {error.strerror or error}.", "Choose another folder with --dir."
        ) from None
    if checksum != corpus.checksum:
        raise CharlmError(
            f"{path}: is not {name}: {corpus.checksum_algorithm} is {checksum}, expected {corpus.checksum}.",
            "The file was not changed. Move it, or choose another folder with --dir.",
        )
    return True


def download_corpus(name: str, folder: Path, on_progress: Callable[[int], object] = lambda size_bytes: None) -> Path:
    """Download the corpus to ``NAME.txt`` in ``folder`` unless it exists there; verify it in either case.

    ``on_progress`` is called with the size of each piece of text received. Raises ``UsageError`` for an unknown name,
    else ``CharlmError``; on failure, no new file is left behind.
    """
    path, corpus = download_path(name, folder), CORPORA[name]
    if is_downloaded(name, folder):
        return path
    try:
        files.make_folder(folder)
        with files.atomic_writer(path) as file:
            for piece in _fetch_verified(corpus):
                file.write(piece)
                on_progress(len(piece))
    except _DownloadError as error:
        raise CharlmError(
            f"{corpus.url}: download failed: {_sanitize(str(error))}.",
            f"No file was saved. Try again later, or download it yourself and save it as {path}.",
        ) from None
    except OSError as error:  # from the disk; network errors are reported above
        raise CharlmError(
            f"{path}: cannot be written: {error.strerror}.",
            "No file was saved. Free up space, or choose another folder with --dir.",
        ) from None
    return path


def _fetch_verified(corpus: DownloadableCorpus) -> Iterator[bytes]:
    """Yield the text piece by piece. Raises ``_DownloadError`` as soon as it cannot match the checksum."""
    digest, size_bytes = _new_hash(corpus), 0
    for piece in _fetch(corpus):
        digest.update(piece)
        size_bytes += len(piece)
        if size_bytes > corpus.size_bytes:
            raise _DownloadError(f"received more than the expected {corpus.size_bytes:,} bytes")
        yield piece
    if size_bytes < corpus.size_bytes:
        raise _DownloadError(f"ended after {size_bytes:,} of {corpus.size_bytes:,} bytes")
    if digest.hexdigest() != corpus.checksum:
        raise _DownloadError(f"{corpus.checksum_algorithm} is {digest.hexdigest()}, expected {corpus.checksum}")


def _new_hash(corpus: DownloadableCorpus) -> "hashlib._Hash":
    return hashlib.new(corpus.checksum_algorithm, usedforsecurity=False)


def _fetch(corpus: DownloadableCorpus) -> Iterator[bytes]:
    """Yield the server's response, decompressed."""
    try:
        with _make_opener().open(fullurl=corpus.url, timeout=TIMEOUT_SECONDS) as response:
            yield from _read_zipped(response) if corpus.is_zipped else _read_plain(response, corpus.size_bytes)
    except (OSError, HTTPException, zlib.error, ValueError) as error:  # ValueError: redirected to an invalid URL
        raise _DownloadError(_describe_error(error)) from None


def _read_plain(response: HTTPResponse, size_bytes: int) -> Iterator[bytes]:
    if response.length not in (None, size_bytes):  # None: unknown
        raise _DownloadError(f"the server announced {response.length:,} bytes, expected {size_bytes:,}")
    while piece := response.read(BLOCK_BYTES):
        yield piece


def _read_zipped(response: HTTPResponse) -> Iterator[bytes]:
    """Decompress the first member of a zip file while it is received; its local header says where it starts
    (APPNOTE.TXT, 4.3.7).
    """
    header = response.read(30)
    if len(header) < 30 or not header.startswith(b"PK\3\4"):
        raise _DownloadError("not a zip file")
    method, name_bytes, extra_bytes = struct.unpack("<8xH16xHH", header)
    if method != DEFLATE:
        raise _DownloadError(f"unsupported zip compression method {method}")
    response.read(name_bytes + extra_bytes)
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    while not unpacking.eof and (packed := unpacking.unconsumed_tail or response.read(BLOCK_BYTES)):
        yield unpacking.decompress(packed, BLOCK_BYTES)


def _make_opener() -> OpenerDirector:
    """An opener for http and https only, including proxies and redirects; no file or ftp URLs."""
    opener = OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _describe_error(error: Exception) -> str:
    if isinstance(error, HTTPError):
        with error:  # closes the connection
            return f"the server returned {error.code} {error.reason}"
    if isinstance(error, URLError):
        return _describe_error(error.reason) if isinstance(error.reason, OSError) else str(error.reason)
    if isinstance(error, TimeoutError):
        return f"no data received for {TIMEOUT_SECONDS:g} seconds"
    if isinstance(error, OSError):
        return f"connection failed: {error.strerror or error}"
    if isinstance(error, zlib.error):
        return f"damaged zip file: {error}"
    return f"{type(error).__name__}: {error}"


def _sanitize(text: str) -> str:
    """Sanitize a server's message, which may contain terminal control sequences."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())[:300]
