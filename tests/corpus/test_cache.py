import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from charlm import files
from charlm.config import CorpusSettings
from charlm.corpus import cache, encoded_text
from charlm.corpus.encoded_text import EncodedText
from charlm.errors import CharlmError, TextError

OLD = 10**18  # nanoseconds: long ago, so that a change would show
Read = Callable[..., EncodedText]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    write(path, "some text\n" * 10)
    return path


@pytest.fixture
def encoded_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be encoded."""
    built: list[Path] = []
    build = encoded_text.encode_files

    def counted(folder: Path, paths: list[Path], *arguments: object) -> object:
        built.extend(paths)
        return build(folder, paths, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encoded_text, "encode_files", counted)
    return built


def write(path: Path, text: str, modified_ns: int = OLD) -> None:
    path.write_text(text, encoding="utf-8", newline="")
    os.utime(path, ns=(modified_ns, modified_ns))


def load_or_encode(path: Path, **settings: object) -> EncodedText:
    return cache.load_or_encode(path.parent / "cache", [path], CorpusSettings(**settings))


def text_of(found: EncodedText) -> str:
    return "".join(found.alphabet[id_] for id_ in found.ids)


def temporary_files(folder: Path) -> list[Path]:
    marks = (files.TEMPORARY_INFIX, files.BUILDING_PREFIX)
    return [path for path in folder.rglob("*") if any(mark in path.name for mark in marks)]


def test_unchanged_file_is_not_read_again(path: Path, encoded_files: list[Path]) -> None:
    first, second = load_or_encode(path), load_or_encode(path)
    assert encoded_files == [path]
    assert text_of(first) == text_of(second) == "some text\n" * 10
    assert first.files == second.files
    assert isinstance(second.ids, np.memmap)
    assert not temporary_files(path.parent)


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_edited_file_is_read_again(path: Path, encoded_files: list[Path], change: str) -> None:
    load_or_encode(path)
    if change == "size":
        write(path, "some text\n" * 11)
    elif change == "time":
        write(path, "same text\n" * 10, OLD + 1)
    else:
        write(path.with_name("new"), "same text\n" * 10)
        path.with_name("new").replace(path)
    assert text_of(load_or_encode(path)) == path.read_text()
    assert len(encoded_files) == 2


def test_recently_modified_file_is_not_trusted(path: Path, encoded_files: list[Path]) -> None:
    path.write_text("fresh one\n" * 10)
    load_or_encode(path)
    times = path.stat()
    path.write_text("fresh two\n" * 10)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert text_of(load_or_encode(path)) == "fresh two\n" * 10


def test_same_text_under_other_name_shares_entry(path: Path) -> None:
    other = path.with_name("other.txt")
    shutil.copy2(path, other)
    assert load_or_encode(path).folder == load_or_encode(other).folder
    assert load_or_encode(other).files[0].path == str(other)
    assert load_or_encode(path).files[0].path == str(path)


@pytest.mark.parametrize(
    "settings",
    [{"unit": "byte"}, {"encoding": "latin-1"}, {"newline": "lf"}, {"normalize": "nfc"}, {"decode_errors": "replace"}],
    ids=str,
)
def test_decoding_settings_are_part_of_key(path: Path, settings: dict[str, str]) -> None:
    assert load_or_encode(path).folder != load_or_encode(path, **settings).folder


def test_other_settings_are_not_part_of_key(path: Path, encoded_files: list[Path]) -> None:
    assert load_or_encode(path).folder == load_or_encode(path, min_count=3, test_fraction=0.5, encoding="UTF8").folder
    assert encoded_files == [path]


def test_entry_is_found_by_hash_if_file_is_missing(path: Path) -> None:
    found = load_or_encode(path)
    path.unlink()
    recalled = cache.find_by_hash(path.parent / "cache", found.files_sha256, CorpusSettings())
    assert recalled is not None
    assert text_of(recalled) == text_of(found)
    assert cache.find_by_hash(path.parent / "cache", "0" * 64, CorpusSettings()) is None


@pytest.mark.parametrize("name", [encoded_text.IDS, encoded_text.METADATA])
@pytest.mark.parametrize("damage", ["cut", "gone", "nonsense"])
def test_damaged_entry_is_rebuilt(path: Path, encoded_files: list[Path], name: str, damage: str) -> None:
    kept = load_or_encode(path).folder / name
    if damage == "gone":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:-1] if damage == "cut" else b"[]")
    assert text_of(load_or_encode(path)) == "some text\n" * 10
    assert text_of(load_or_encode(path)) == "some text\n" * 10
    assert len(encoded_files) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"format_version": 2, "encoded": 3}', b'{"format_version": 2, "encoded": "../../.."}', b"\xff"],
)
def test_damaged_index_entry_is_rewritten(path: Path, encoded_files: list[Path], content: bytes) -> None:
    load_or_encode(path)
    (note,) = (path.parent / "cache" / "index").iterdir()
    note.write_bytes(content)
    assert text_of(load_or_encode(path)) == "some text\n" * 10
    load_or_encode(path)
    assert len(encoded_files) == 2
    assert path.exists()


def test_index_entry_with_path_outside_cache_is_ignored(path: Path, encoded_files: list[Path]) -> None:
    load_or_encode(path)
    (note,) = (path.parent / "cache" / "index").iterdir()
    mine = path.parent / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("Dear")
    for name in (str(mine), "../../mine"):
        note.write_text(json.dumps({"format_version": encoded_text.FORMAT_VERSION, "encoded": name}))
        load_or_encode(path)
        assert (mine / "letter.txt").read_text() == "Dear"
    assert len(encoded_files) == 3


def test_unreadable_text_leaves_no_entry(path: Path) -> None:
    path.write_bytes(b"text \xff")
    with pytest.raises(TextError):
        load_or_encode(path)
    assert not list((path.parent / "cache" / cache.TEXTS).iterdir())


@pytest.mark.parametrize("fails", ["mkdir", "write", "rename"])
def test_full_disk_error_suggests_cache_dir(path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails == "write":
        monkeypatch.setattr(encoded_text.IdWriter, "add", full)
    else:
        monkeypatch.setattr(Path, fails, full)
    with pytest.raises(CharlmError, match=r"cache: .*No space left") as raised:
        load_or_encode(path)
    assert "--cache-dir" in raised.value.hint
    assert "CHARLM_CACHE_DIR" in raised.value.hint
    monkeypatch.undo()
    assert not temporary_files(path.parent)
    assert text_of(load_or_encode(path)) == "some text\n" * 10


def test_clear_removes_everything_and_returns_freed_bytes(path: Path, encoded_files: list[Path]) -> None:
    load_or_encode(path)
    folder = path.parent / "cache"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert cache.clear(folder) == size > 0
    assert [file for file in folder.rglob("*") if file.is_file()] == []
    assert cache.clear(folder) == 0
    assert cache.clear(path.parent / "nowhere") == 0
    load_or_encode(path)
    assert len(encoded_files) == 2


KEY_1 = "0123456789abcdef0123456789abcdef"


def write_version_1(folder: Path) -> list[Path]:
    """A cache as charlm kept it in format 1: an encoded text with the starts of its documents, and its index entry."""
    text, seen = folder / "texts" / KEY_1, folder / "seen"
    text.mkdir(parents=True)
    seen.mkdir()
    source = {"path": "old.txt", "size_bytes": 2, "sha256": "0" * 64, "characters": 2}
    manifest = {"characters": 2, "type": "uint8", "alphabet": "ab", "counts": [1, 1], "files": [source]}
    (text / "ids.bin").write_bytes(b"\0\1")
    (text / "encoded.json").write_text(json.dumps(manifest))
    (text / f"documents-{KEY_1}.bin").write_bytes(bytes(16))
    (seen / f"{KEY_1}.json").write_text(json.dumps({"text": KEY_1}))
    return [*text.iterdir(), *seen.iterdir()]


def test_version_1_entry_is_ignored_and_kept(path: Path, encoded_files: list[Path]) -> None:
    old = write_version_1(path.parent / "cache")
    assert text_of(load_or_encode(path)) == "some text\n" * 10
    assert encoded_files == [path]
    assert all(file.is_file() for file in old)


@pytest.mark.parametrize("version", [1, 3, None])
def test_encoded_text_of_other_version_is_rebuilt(path: Path, encoded_files: list[Path], version: int | None) -> None:
    metadata = load_or_encode(path).folder / encoded_text.METADATA
    content = json.loads(metadata.read_bytes())
    assert content["format_version"] == encoded_text.FORMAT_VERSION
    del content["format_version"]
    metadata.write_text(json.dumps(content if version is None else {**content, "format_version": version}))
    assert text_of(load_or_encode(path)) == "some text\n" * 10
    assert json.loads(metadata.read_bytes())["format_version"] == encoded_text.FORMAT_VERSION
    load_or_encode(path)
    assert len(encoded_files) == 2


@pytest.mark.parametrize("version", [1, 3, None])
def test_index_entry_of_other_version_is_rebuilt(path: Path, encoded_files: list[Path], version: int | None) -> None:
    load_or_encode(path)
    (entry,) = (path.parent / "cache" / cache.INDEX).iterdir()
    content = json.loads(entry.read_bytes())
    assert content.pop("format_version") == encoded_text.FORMAT_VERSION
    entry.write_text(json.dumps(content if version is None else {**content, "format_version": version}))
    load_or_encode(path)
    load_or_encode(path)
    assert len(encoded_files) == 2
    assert json.loads(entry.read_bytes()) == {**content, "format_version": encoded_text.FORMAT_VERSION}


def test_every_metadata_key_is_required(path: Path, encoded_files: list[Path]) -> None:
    metadata = load_or_encode(path).folder / encoded_text.METADATA
    whole = json.loads(metadata.read_bytes())
    changed = [{other: value for other, value in whole.items() if other != name} for name in whole]
    (file,) = whole["files"]
    changed += [{**whole, "files": [{other: value for other, value in file.items() if other != name}]} for name in file]
    assert len(changed) == 10
    for number, content in enumerate(changed, 2):
        metadata.write_text(json.dumps(content))
        assert text_of(load_or_encode(path)) == "some text\n" * 10
        assert len(encoded_files) == number, content


def test_clear_removes_entries_of_every_version(path: Path) -> None:
    folder = path.parent / "cache"
    write_version_1(folder)
    metadata = load_or_encode(path).folder / encoded_text.METADATA
    metadata.write_text(json.dumps({**json.loads(metadata.read_bytes()), "format_version": 3}))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert cache.clear(folder) == size
    assert [file for file in folder.rglob("*") if file.is_file()] == []


def test_clear_keeps_foreign_files(path: Path) -> None:
    folder = path.parent / "cache"
    mine = []
    for name in ("texts", "seen", cache.TEXTS, cache.INDEX):
        (folder / name / "0f" / KEY_1).mkdir(parents=True)
        (folder / name / KEY_1).mkdir()
        mine += [folder / name / "notes.json", folder / name / KEY_1 / "notes.txt", folder / name / "0f" / "ids.bin"]
    for file in mine:
        file.write_text("mine")
    load_or_encode(path)
    cache.clear(folder)
    assert sorted(file for file in folder.rglob("*") if file.is_file()) == sorted(mine)


def test_open_text_survives_clear(path: Path) -> None:
    found = load_or_encode(path)
    cache.clear(path.parent / "cache")
    assert text_of(found) == "some text\n" * 10


def test_clear_keeps_live_builds_and_removes_stale_ones(path: Path) -> None:
    folder = path.parent / "cache"
    load_or_encode(path)
    (folder / cache.TEXTS / f"{files.BUILDING_PREFIX}dead").mkdir()
    (folder / cache.TEXTS / f"{files.BUILDING_PREFIX}dead" / "ids.bin").write_bytes(b"half")
    (folder / cache.TEXTS / f"{files.BUILDING_PREFIX}dead.lock").touch()
    with files.build_folder(folder / cache.TEXTS) as building:
        (building.folder / "ids.bin").write_bytes(b"half")
        cache.clear(folder)
        assert building.folder in temporary_files(folder)
        assert (building.folder / "ids.bin").exists()
        assert not list(folder.rglob("*dead*"))
        building.path = folder / cache.TEXTS / "done"
    assert (folder / cache.TEXTS / "done" / "ids.bin").read_bytes() == b"half"


def test_concurrent_encoding_in_threads_gives_both_the_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, found = threading.Barrier(2), []
    build = encoded_text.encode_files

    def together(*arguments: object) -> object:
        result = build(*arguments)  # type: ignore[arg-type]
        both.wait(30)  # both are done before either gives its folder the name
        return result

    monkeypatch.setattr(encoded_text, "encode_files", together)
    threads = [threading.Thread(target=lambda: found.append(text_of(load_or_encode(path)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["some text\n" * 10] * 2
    assert not temporary_files(path.parent)


def test_concurrent_encoding_of_same_text_is_safe(path: Path) -> None:
    write(path, "text of some length\n" * 200_000)
    code = (
        "import sys; from pathlib import Path\n"
        "from charlm.corpus import cache; from charlm.config import CorpusSettings\n"
        "found = cache.load_or_encode(Path(sys.argv[1]), [Path(sys.argv[2])], CorpusSettings()); print(len(found.ids))"
    )
    command = [sys.executable, "-c", code, str(path.parent / "cache"), str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["4000000\n"] * 4
    assert not temporary_files(path.parent)


def test_default_folder_is_user_cache_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, "/elsewhere")
    assert cache.default_folder() == Path("/elsewhere")
    monkeypatch.delenv(cache.CACHE_VARIABLE)
    assert cache.default_folder().name == "charlm"
