"""Downloads against a server on this machine: what comes out right, and every way in which one can go wrong."""

import errno
import gc
import hashlib
import io
import os
import random
import resource
import socket
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from charlm.corpus import download
from charlm.corpus.download import CORPORA, DownloadableCorpus
from charlm.errors import CharlmError, UsageError

TEXT = b"".join(b"line %d of a text that is known\r\n" % number for number in range(30_000))[
    :1_000_000
]  # several blocks
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, Answer]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.answers[self.path](self)

    def respond(self, body: bytes, length: int | None = None, status: int = 200, **headers: str) -> None:
        """An answer whose declared length may be a lie."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def respond_without_length(self, body: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        """A client that goes away is what is tested."""


Serve = Callable[..., str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Has the server answer in this way, and returns the address that it does so at."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Handler, "answers", {})
    monkeypatch.setattr(Handler, "asked", [])
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def serving(answer: Answer, suffix: str = "") -> str:
            path = f"/{len(Handler.answers)}{suffix}"
            Handler.answers[path] = answer
            return f"http://127.0.0.1:{server.server_port}{path}"

        yield serving
        server.shutdown()
        thread.join()


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes ``TEXT`` the corpus ``known``, at this address."""

    def publishing(address: str, kind: str = "sha256", text: bytes = TEXT) -> None:
        checksum = hashlib.new(kind, text).hexdigest()
        monkeypatch.setitem(CORPORA, "known", DownloadableCorpus(address, len(text), kind, checksum, "", "", ""))

    return publishing


Publish = Callable[..., None]


def make_zip(text: bytes = TEXT, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("member", text)
    return buffer.getvalue()


def assert_download_fails(folder: Path, reason: str) -> None:
    """Getting the corpus fails in two lines, with this reason, and leaves nothing."""
    with pytest.raises(CharlmError, match=reason) as caught:
        download.download_corpus("known", folder)
    assert caught.value.exit_code == 1
    assert len(str(caught.value).splitlines()) == 2
    assert CORPORA["known"].url in caught.value.message or str(folder) in caught.value.message
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5"])
@pytest.mark.parametrize("answer", [Handler.respond, Handler.respond_without_length])
def test_text_is_downloaded_with_progress(
    tmp_path: Path, serve: Serve, publish: Publish, answer: Callable[[Handler, bytes], None], kind: str
) -> None:
    publish(serve(lambda handler: answer(handler, TEXT)), kind)
    steps: list[int] = []
    path = download.download_corpus("known", tmp_path / "new" / "data", steps.append)
    assert path == tmp_path / "new" / "data" / "known.txt"
    assert path.read_bytes() == TEXT
    assert list(path.parent.iterdir()) == [path]
    assert sum(steps) == len(TEXT)
    assert len(steps) > 2


@pytest.mark.parametrize(
    "text", [TEXT, random.Random(0).randbytes(700_000), b"x" * 3_000_000, b"x"], ids=["text", "noise", "x", "1"]
)
def test_zip_is_unpacked(tmp_path: Path, serve: Serve, publish: Publish, text: bytes) -> None:
    publish(serve(lambda handler: handler.respond(make_zip(text)), ".zip"), text=text)
    assert download.download_corpus("known", tmp_path).read_bytes() == text


def test_redirect_is_followed(tmp_path: Path, serve: Serve, publish: Publish) -> None:
    target = serve(lambda handler: handler.respond(TEXT))
    publish(serve(lambda handler: handler.respond(b"", status=302, Location=target)))
    assert download.download_corpus("known", tmp_path).read_bytes() == TEXT
    assert Handler.asked == ["/1", "/0"]


def test_existing_valid_file_is_not_downloaded_again(tmp_path: Path, serve: Serve, publish: Publish) -> None:
    publish(serve(lambda handler: handler.respond(TEXT)))
    for _ in range(2):
        download.download_corpus("known", tmp_path)
    assert Handler.asked == ["/0"]


@pytest.mark.parametrize("mine", [b"mine", TEXT[:-1], TEXT + b"\n", b""])
def test_existing_different_file_is_not_modified(tmp_path: Path, serve: Serve, publish: Publish, mine: bytes) -> None:
    publish(serve(lambda handler: handler.respond(TEXT)))
    (tmp_path / "known.txt").write_bytes(mine)
    with pytest.raises(CharlmError, match=hashlib.sha256(TEXT).hexdigest()) as caught:
        download.download_corpus("known", tmp_path)
    assert caught.value.exit_code == 1
    assert hashlib.sha256(mine).hexdigest() in caught.value.message
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [mine]
    assert Handler.asked == []


# What the server does wrong

WRONG: dict[str, tuple[Answer, str]] = {
    "404": (lambda handler: handler.send_error(404), "404 Not Found"),
    "500": (lambda handler: handler.send_error(500), "500 Internal"),
    "too short": (lambda handler: handler.respond(TEXT[:-1]), "999,999 bytes, expected 1,000,000"),
    "too long": (lambda handler: handler.respond(TEXT + b"\n"), "1,000,001 bytes"),
    "too short, undeclared": (lambda handler: handler.respond_without_length(TEXT[:-1]), "after 999,999 of"),
    "too long, undeclared": (
        lambda handler: handler.respond_without_length(TEXT + b"\n"),
        "more than the expected 1,000,000 bytes",
    ),
    "empty": (lambda handler: handler.respond_without_length(b""), "after 0 of"),
    "broken off": (lambda handler: handler.respond(TEXT[:500_000], len(TEXT)), "after 500,000 of|connection failed"),
    "declares less": (lambda handler: handler.respond(TEXT, 5), "announced 5 bytes"),
    "declares more": (lambda handler: handler.respond(TEXT, len(TEXT) + 1), "1,000,001 bytes"),
    "another text": (lambda handler: handler.respond(TEXT[::-1]), hashlib.sha256(TEXT).hexdigest()),
    "one bit": (lambda handler: handler.respond(b"M" + TEXT[1:]), hashlib.sha256(b"M" + TEXT[1:]).hexdigest()),
    "no HTTP": (lambda handler: handler.wfile.write(b"\x1b[31mhello\n") and None, "hello"),
    "nothing at all": (lambda handler: None, "connection failed"),
    "to a file": (
        lambda handler: handler.respond(b"", status=302, Location="file:///etc/passwd"),
        "file:.*not allowed",
    ),
    "to ftp": (lambda handler: handler.respond(b"", status=302, Location="ftp://127.0.0.1/x"), "unknown url type: ftp"),
    "in circles": (lambda handler: handler.respond(b"", status=302, Location=handler.path), "infinite loop"),
}
each_wrong = pytest.mark.parametrize(("answer", "reason"), WRONG.values(), ids=WRONG)


@each_wrong
def test_wrong_response_is_reported_and_discarded(
    tmp_path: Path, serve: Serve, publish: Publish, answer: Answer, reason: str
) -> None:
    publish(serve(answer))
    assert_download_fails(tmp_path, reason)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib leaves its socket open here
def test_redirect_to_invalid_url_is_reported(tmp_path: Path, serve: Serve, publish: Publish) -> None:
    publish(serve(lambda handler: handler.respond(b"", status=302, Location="http://[::1")))
    assert_download_fails(tmp_path, "IPv6")
    gc.collect()


def broken_zips() -> dict[str, tuple[bytes, str]]:
    whole = make_zip()
    return {
        "a page": (b"<html>Sign in to this network</html>" * 9, "not a zip"),
        "nothing": (b"", "not a zip"),
        "a header that breaks off": (whole[:29], "not a zip"),
        "a header and no more": (whole[:30], "after 0 of"),
        "not packed": (make_zip(compression=zipfile.ZIP_STORED), "method 0"),
        "broken off": (whole[: len(whole) // 2], "after [1-9]"),
        "damaged": (whole[:100] + b"\xff" * 100 + whole[200:], "damaged zip"),
        "too short": (make_zip(TEXT[:-1]), "after 999,999 of"),
        "too long": (make_zip(TEXT + b"\n"), "more than the expected 1,000,000 bytes"),
        "another text": (make_zip(TEXT[::-1]), hashlib.sha256(TEXT).hexdigest()),
    }


@pytest.mark.parametrize(("body", "reason"), broken_zips().values(), ids=broken_zips())
def test_broken_zip_is_reported_and_discarded(
    tmp_path: Path, serve: Serve, publish: Publish, body: bytes, reason: str
) -> None:
    publish(serve(lambda handler: handler.respond(body), ".zip"))
    assert_download_fails(tmp_path, reason)


@pytest.mark.parametrize("sent", [None, b"", TEXT[:500_000]], ids=["not a word", "only a head", "half of it"])
def test_silent_server_times_out(
    tmp_path: Path, serve: Serve, publish: Publish, monkeypatch: pytest.MonkeyPatch, sent: bytes | None
) -> None:
    over = threading.Event()

    def stall(handler: Handler) -> None:
        if sent is not None:
            handler.respond(sent, len(TEXT))
        over.wait(60)

    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    publish(serve(stall))
    try:
        assert_download_fails(tmp_path, r"0\.2 seconds")
    finally:
        over.set()


def test_unreachable_server_is_reported(tmp_path: Path, publish: Publish) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        publish(f"http://127.0.0.1:{taken.getsockname()[1]}/")
        assert_download_fails(tmp_path, "[Rr]efused")


def test_missing_network_is_reported(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    publish("http://known.invalid/")
    assert_download_fails(tmp_path, "Name or service not known")


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "no address"])
def test_only_http_and_https_are_opened(tmp_path: Path, publish: Publish, address: str) -> None:
    publish(address)
    assert_download_fails(tmp_path, "unknown url type")


def test_server_message_is_sanitized(tmp_path: Path, serve: Serve, publish: Publish) -> None:
    publish(serve(lambda handler: handler.send_error(404, "\x1b]0;mine\x07" + "!" * 5000)))
    with pytest.raises(CharlmError) as caught:
        download.download_corpus("known", tmp_path)
    assert "404 ]0;mine !" in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


# What the disk does wrong


def test_full_disk_is_reported(tmp_path: Path, serve: Serve, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    publish(serve(lambda handler: handler.respond(TEXT)))
    monkeypatch.setattr(os, "fsync", full)
    assert_download_fails(tmp_path, "No space left on device")


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_file_size_limit_is_reported(tmp_path: Path, serve: Serve, publish: Publish) -> None:
    publish(serve(lambda handler: handler.respond(TEXT)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        assert_download_fails(tmp_path, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_folder_path_that_is_a_file_is_rejected(tmp_path: Path, publish: Publish) -> None:
    publish("http://127.0.0.1:9/")
    (tmp_path / "data").touch()
    with pytest.raises(CharlmError, match="data") as caught:
        download.download_corpus("known", tmp_path / "data")
    assert caught.value.exit_code == 1


def test_text_path_that_is_a_folder_is_rejected(tmp_path: Path, publish: Publish) -> None:
    publish("http://127.0.0.1:9/")
    (tmp_path / "known.txt").mkdir()
    with pytest.raises(CharlmError, match=r"known\.txt: cannot be read"):
        download.download_corpus("known", tmp_path)


def test_uncreatable_folder_is_rejected(tmp_path: Path, publish: Publish) -> None:
    publish("http://127.0.0.1:9/")
    with pytest.raises(CharlmError, match="cannot be read: File name too long"):
        download.download_corpus("known", tmp_path / ("x" * 300))


def test_interrupted_download_leaves_no_file(tmp_path: Path, serve: Serve, publish: Publish) -> None:
    def interrupt(size_bytes: int) -> None:
        assert [path.name.startswith(".known.txt") for path in tmp_path.iterdir()] == [True]
        raise KeyboardInterrupt

    publish(serve(lambda handler: handler.respond(TEXT)))
    with pytest.raises(KeyboardInterrupt):
        download.download_corpus("known", tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zip"])
def test_memory_does_not_grow_with_text_size(tmp_path: Path, serve: Serve, publish: Publish, packed: bool) -> None:
    line = b"0123456789abcdef" * (1 << 16)  # a mebibyte
    text = line * 24
    body = make_zip(text) if packed else text
    publish(serve(lambda handler: handler.respond(body), ".zip" * packed), text=text)
    tracemalloc.start()
    try:
        path = download.download_corpus("known", tmp_path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == len(text)
    assert peak_bytes < 6 * download.BLOCK_BYTES


# The table


def test_unknown_name_suggests_nearest_and_lists_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean enwik8") as caught:
        download.download_corpus("enwik", tmp_path)
    assert all(name in caught.value.hint for name in CORPORA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../escape", "", "/etc/passwd", "known.txt"])
def test_corpus_name_with_path_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        download.download_path(name, tmp_path)


def test_corpora_list() -> None:
    assert set(CORPORA) == {"tinyshakespeare", "warandpeace", "enwik8", "text8"}


@pytest.mark.parametrize("name", CORPORA)
def test_corpus_entry_is_complete(name: str) -> None:
    corpus = CORPORA[name]
    address = urlsplit(corpus.url)
    assert address.scheme in ("http", "https")
    assert address.hostname
    assert corpus.is_zipped == (name in ("enwik8", "text8"))
    assert corpus.size_bytes > 1_000_000
    digits = {"md5": 32, "sha1": 40, "sha256": 64}[corpus.checksum_algorithm]
    assert len(corpus.checksum) == digits
    assert set(corpus.checksum) <= set("0123456789abcdef")
    assert corpus.checksum_source.replace("-", "").lower().startswith(corpus.checksum_algorithm)
    assert corpus.license
    assert corpus.description
