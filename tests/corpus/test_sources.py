import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.config import CorpusSettings
from charlm.corpus import sources, streams
from charlm.corpus.record import FileRecord
from charlm.errors import TextError, UsageError

CHARACTERS = CorpusSettings()
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(f"the text of {name}\n".encode())


def found(*names: object, settings: CorpusSettings = CHARACTERS) -> list[str]:
    return [path.as_posix() for path in sources.resolve_paths([str(name) for name in names], settings)]


def read(path: Path | str) -> tuple[bytes, FileRecord]:
    with streams.open_source(Path(path)) as (stream, hashed):
        data = b"".join(iter(lambda: stream.read(1000), b""))
    sha256 = hashed.digest.hexdigest()
    return data, FileRecord(path=str(path), size_bytes=hashed.size_bytes, sha256=sha256, length=len(data))


# Names


@pytest.mark.parametrize("names", [[], ["python"]])
def test_built_in_corpus_is_the_default(names: list[str], here: Path) -> None:
    paths = sources.resolve_paths(names, CHARACTERS)
    assert sources.corpus_name(names) == "python"
    assert 1_000_000 < sum(path.stat().st_size for path in paths) < 20_000_000
    files = [path.name for path in paths]
    assert files == sorted(files)
    assert {"argparse.py", "typing.py"} <= set(files)


def test_file_named_python_takes_precedence_over_built_in_corpus(here: Path) -> None:
    make("python")
    assert found("python") == ["python"]
    assert Path("python") not in sources.resolve_paths([], CHARACTERS)


def test_files_are_read_in_the_order_given(here: Path) -> None:
    make("b", "a", "c")
    assert found("b", "a", "c") == ["b", "a", "c"]


def test_folder_gives_its_text_files_in_path_order(here: Path) -> None:
    make("plays/b.txt", "plays/a.md", "plays/acts/z", "plays/Z.txt", "plays/acts/.hidden", "plays/.git/config")
    Path("plays/picture.png").write_bytes(b"\x89PNG\r\n\0\0\0\rIHDR")
    (here / "plays" / "more.txt.gz").write_bytes(gzip.compress(b"text"))
    (here / "plays" / "picture.gz").write_bytes(gzip.compress(b"\0\0\0"))
    expected = ["plays/Z.txt", "plays/a.md", "plays/acts/z", "plays/b.txt", "plays/more.txt.gz"]
    assert found("plays") == found("plays/") == expected


def test_byte_level_folder_gives_all_files(here: Path) -> None:
    make("plays/a.txt")
    Path("plays/picture.png").write_bytes(b"\x89PNG\0")
    assert found("plays", settings=CorpusSettings(unit="byte")) == ["plays/a.txt", "plays/picture.png"]
    assert found("plays", settings=CorpusSettings(encoding="UTF-16")) == ["plays/a.txt", "plays/picture.png"]


@pytest.mark.parametrize("inside", [(), ("plays/.hidden",), ("plays/picture",)])
def test_folder_without_text_is_rejected(here: Path, inside: tuple[str, ...]) -> None:
    Path("plays").mkdir()
    for name in inside:
        Path(name).write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"^plays: no text file"):
        found("plays")


def test_pattern_gives_matching_files_in_order(here: Path) -> None:
    make("plays/b.txt", "plays/a.txt", "plays/c.md", "plays/acts/d.txt")
    assert found("plays/*.txt") == ["plays/a.txt", "plays/b.txt"]
    assert found("plays/**/*.txt") == ["plays/a.txt", "plays/acts/d.txt", "plays/b.txt"]
    assert found(here / "plays" / "[ab].txt") == [(here / "plays" / name).as_posix() for name in ("a.txt", "b.txt")]
    with pytest.raises(UsageError, match=r"^plays/\*\.tex: no such file"):
        found("plays/*.tex")


def test_file_with_pattern_characters_in_name(here: Path) -> None:
    make("a[b].txt", "ab.txt")
    assert found("a[b].txt") == ["a[b].txt"]


def test_missing_file_is_rejected_at_any_position(here: Path) -> None:
    make("a")
    with pytest.raises(UsageError, match=r"^plya\.txt: no such file"):
        found("a", "plya.txt")


@pytest.mark.parametrize(
    ("name", "nearest"), [("tinyshakespear", "tinyshakespeare"), ("pyhton", "python"), ("text.txt", ""), ("zzz", "")]
)
def test_unknown_name_suggests_nearest_corpus(here: Path, name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: no such file") as raised:
        sources.resolve_paths([name], CorpusSettings())
    assert raised.value.message.endswith(f"Did you mean {nearest}?") == bool(nearest)
    assert "standard input" in raised.value.hint


def test_missing_known_corpus_suggests_download(here: Path) -> None:
    with pytest.raises(UsageError, match=r"^enwik8: no such file") as raised:
        found("enwik8")
    assert "charlm corpus get enwik8" in raised.value.hint


def test_stdin_can_be_named_once(here: Path) -> None:
    make("a")
    assert found("a", "-") == ["a", "-"]
    with pytest.raises(UsageError, match="standard input"):
        found("-", "a", "-")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["much.ado.txt", "a.txt"], "much.ado"),
        (["plays/hamlet.txt.gz"], "hamlet"),
        (["plays/hamlet.gz"], "hamlet"),
        (["-", "a.txt"], "stdin"),
        (["plays"], "plays"),
        (["plays/"], "plays"),
        (["plays/*.txt"], "a"),
        (["nowhere.txt"], "nowhere"),
    ],
)
def test_corpus_is_named_after_first_input(here: Path, names: list[str], expected: str) -> None:
    make("plays/b.txt", "plays/a.txt")
    assert sources.corpus_name(names) == expected


def test_corpus_name_of_current_folder(here: Path) -> None:
    assert sources.corpus_name(["."]) == here.name


# Streams


@pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
def test_content_is_decompressed_and_raw_bytes_are_hashed(here: Path, suffix: str) -> None:
    text = "déjà vu\r\n".encode() * 5000
    stored = COMPRESSORS.get(suffix, lambda data: data)(text)
    Path(f"text{suffix}").write_bytes(stored)
    data, source = read(f"text{suffix}")
    assert data == text
    assert source.model_dump() == {
        "path": f"text{suffix}",
        "size_bytes": len(stored),
        "sha256": hashlib.sha256(stored).hexdigest(),
        "length": len(text),
    }


def test_all_gzip_members_are_read(here: Path) -> None:
    Path("a.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    assert read("a.gz")[0] == b"one two"


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "no such format", "empty"])
def test_damaged_compressed_file_is_rejected(here: Path, suffix: str, damage: str) -> None:
    stored = bytearray(COMPRESSORS[suffix](random.Random(0).randbytes(3000)))
    if damage == "flipped":
        stored[len(stored) // 2] ^= 0xFF
    path = Path(f"text{suffix}")
    path.write_bytes({"cut": stored[:-50], "flipped": stored, "no such format": b"plain text", "empty": b""}[damage])
    if damage == "empty" and suffix == ".gz":
        assert read(path)[0] == b""  # which is an empty text, and refused as one
        return
    with pytest.raises(TextError, match=rf"^text\{suffix}: damaged \{suffix} file: .+"):
        read(path)


def test_unsupported_zst_is_rejected(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("text.zst")
    monkeypatch.delitem(streams.DECOMPRESSORS, ".zst", raising=False)
    with pytest.raises(UsageError, match=r"^text\.zst: .*Python 3\.14") as raised:
        read("text.zst")
    assert "zstd -d text.zst" in raised.value.hint


def test_stdin_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    data, source = read("-")
    assert data == b"piped"
    assert source.path == "-"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_named_pipe_is_read_to_its_end(here: Path) -> None:
    os.mkfifo("pipe")  # type: ignore[attr-defined, unused-ignore]
    assert not sources.is_regular_file(Path("pipe"))
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(b"piped " * 50_000,))
    writer.start()
    assert read(found("pipe")[0])[0] == b"piped " * 50_000
    writer.join()


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "replaced"])
def test_file_changed_while_reading_is_rejected(here: Path, change: str) -> None:
    path = Path("a.txt")
    path.write_bytes(b"x" * 10_000)
    os.utime(path, ns=(1, 1))

    def changed() -> None:
        with streams.open_source(path) as (stream, _):
            stream.read(100)
            if change == "replaced":
                Path("b.txt").write_bytes(b"x" * 10_000)
                os.utime("b.txt", ns=(1, 1))
                Path("b.txt").replace(path)
            else:
                path.write_bytes({"longer": b"x" * 10_001, "shorter": b"x" * 50, "other": b"y" * 10_000}[change])
            while stream.read(1000):
                pass

    with pytest.raises(TextError, match=r"^a\.txt: changed while"):
        changed()


def test_deleted_file_raises_usage_error(here: Path) -> None:
    with pytest.raises(UsageError, match=r"^gone: cannot be read: "):
        read("gone")


def test_file_without_permission_raises_usage_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("secret/a")

    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)  # permissions do not bind the superuser, who may run this
    for name in ("secret/a", "secret"):
        with pytest.raises(UsageError, match=r"^secret/a: cannot be read: Permission denied"):
            read(found(name)[0])


def test_read_error_names_file_and_other_errors_propagate(here: Path) -> None:
    make("a")

    class Broken:
        def read(self, size: int = -1, /) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(UsageError, match=r"^a: cannot be read: Input/output error"):
        streams.ErrorReportingStream(Broken(), Path("a")).read()
    with pytest.raises(OSError, match="another disk"), streams.open_source(Path("a")):
        raise OSError(errno.ENOSPC, "another disk is full")
