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
from charlm.corpus import cache, encoded
from charlm.corpus.encoded import Encoded
from charlm.errors import CharlmError, TextError

OLD = 10**18  # nanoseconds: long ago, so that a change would show
Read = Callable[..., Encoded]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    write(path, "some text\n" * 10)
    return path


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be encoded."""
    built: list[Path] = []
    build = encoded.build

    def counted(folder: Path, paths: list[Path], *arguments: object) -> object:
        built.extend(paths)
        return build(folder, paths, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encoded, "build", counted)
    return built


def write(path: Path, text: str, modified_ns: int = OLD) -> None:
    path.write_text(text, encoding="utf-8", newline="")
    os.utime(path, ns=(modified_ns, modified_ns))


def get(path: Path, **settings: object) -> Encoded:
    return cache.get(path.parent / "cache", [path], CorpusSettings(**settings))


def text_of(found: Encoded) -> str:
    return "".join(found.alphabet[id_] for id_ in found.ids)


def temporary_files(folder: Path) -> list[Path]:
    marks = (files.TEMPORARY_MARK, files.BUILDING_MARK)
    return [path for path in folder.rglob("*") if any(mark in path.name for mark in marks)]


def test_a_text_that_has_not_changed_is_not_read_again(path: Path, built: list[Path]) -> None:
    first, second = get(path), get(path)
    assert built == [path]
    assert text_of(first) == text_of(second) == "some text\n" * 10
    assert first.files == second.files
    assert isinstance(second.ids, np.memmap)
    assert not temporary_files(path.parent)


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_an_edited_file_is_noticed(path: Path, built: list[Path], change: str) -> None:
    get(path)
    if change == "size":
        write(path, "some text\n" * 11)
    elif change == "time":
        write(path, "same text\n" * 10, OLD + 1)
    else:
        write(path.with_name("new"), "same text\n" * 10)
        path.with_name("new").replace(path)
    assert text_of(get(path)) == path.read_text()
    assert len(built) == 2


def test_a_file_that_was_written_just_now_is_read_again_since_its_time_may_not_tell(
    path: Path, built: list[Path]
) -> None:
    path.write_text("fresh one\n" * 10)
    get(path)
    times = path.stat()
    path.write_text("fresh two\n" * 10)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert text_of(get(path)) == "fresh two\n" * 10


def test_the_same_text_under_another_name_is_kept_once_and_named_as_it_is_now(path: Path) -> None:
    other = path.with_name("other.txt")
    shutil.copy2(path, other)
    assert get(path).folder == get(other).folder
    assert get(other).files[0].path == str(other)
    assert get(path).files[0].path == str(path)


@pytest.mark.parametrize(
    "settings",
    [{"unit": "byte"}, {"encoding": "latin-1"}, {"newline": "lf"}, {"normalize": "nfc"}, {"decode_errors": "replace"}],
    ids=str,
)
def test_what_decides_how_bytes_are_read_makes_another_text(path: Path, settings: dict[str, str]) -> None:
    assert get(path).folder != get(path, **settings).folder


def test_what_does_not_decide_it_does_not(path: Path, built: list[Path]) -> None:
    assert get(path).folder == get(path, min_count=3, test_fraction=0.5, encoding="UTF8").folder
    assert built == [path]


def test_a_text_can_be_recalled_when_its_file_is_gone(path: Path) -> None:
    found = get(path)
    path.unlink()
    recalled = cache.recall(path.parent / "cache", found.files_sha256, CorpusSettings())
    assert recalled is not None
    assert text_of(recalled) == text_of(found)
    assert cache.recall(path.parent / "cache", "0" * 64, CorpusSettings()) is None


@pytest.mark.parametrize("name", [encoded.IDS, encoded.METADATA])
@pytest.mark.parametrize("damage", ["cut", "gone", "nonsense"])
def test_a_damaged_cache_is_made_anew(path: Path, built: list[Path], name: str, damage: str) -> None:
    kept = get(path).folder / name
    if damage == "gone":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:-1] if damage == "cut" else b"[]")
    assert text_of(get(path)) == "some text\n" * 10
    assert text_of(get(path)) == "some text\n" * 10
    assert len(built) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"format_version": 2, "encoded": 3}', b'{"format_version": 2, "encoded": "../../.."}', b"\xff"],
)
def test_a_damaged_note_is_written_anew(path: Path, built: list[Path], content: bytes) -> None:
    get(path)
    (note,) = (path.parent / "cache" / "index").iterdir()
    note.write_bytes(content)
    assert text_of(get(path)) == "some text\n" * 10
    get(path)
    assert len(built) == 2
    assert path.exists()


def test_a_note_that_leads_out_of_the_cache_is_not_followed(path: Path, built: list[Path]) -> None:
    get(path)
    (note,) = (path.parent / "cache" / "index").iterdir()
    mine = path.parent / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("Dear")
    for name in (str(mine), "../../mine"):
        note.write_text(json.dumps({"format_version": encoded.FORMAT_VERSION, "encoded": name}))
        get(path)
        assert (mine / "letter.txt").read_text() == "Dear"
    assert len(built) == 3


def test_a_text_that_cannot_be_read_leaves_nothing(path: Path) -> None:
    path.write_bytes(b"text \xff")
    with pytest.raises(TextError):
        get(path)
    assert not list((path.parent / "cache" / cache.TEXTS).iterdir())


@pytest.mark.parametrize("fails", ["mkdir", "write", "rename"])
def test_no_room_for_the_cache_is_said_with_the_way_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails == "write":
        monkeypatch.setattr(encoded.Spool, "add", full)
    else:
        monkeypatch.setattr(Path, fails, full)
    with pytest.raises(CharlmError, match=r"cache: .*No space left") as raised:
        get(path)
    assert "--cache-dir" in raised.value.hint
    assert "CHARLM_CACHE_DIR" in raised.value.hint
    monkeypatch.undo()
    assert not temporary_files(path.parent)
    assert text_of(get(path)) == "some text\n" * 10


def test_cleaning_up_removes_everything_and_says_how_much(path: Path, built: list[Path]) -> None:
    get(path)
    folder = path.parent / "cache"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert cache.clean(folder) == size > 0
    assert [file for file in folder.rglob("*") if file.is_file()] == []
    assert cache.clean(folder) == 0
    assert cache.clean(path.parent / "nowhere") == 0
    get(path)
    assert len(built) == 2


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


def test_an_entry_of_version_1_is_ignored_and_left_alone(path: Path, built: list[Path]) -> None:
    old = write_version_1(path.parent / "cache")
    assert text_of(get(path)) == "some text\n" * 10
    assert built == [path]
    assert all(file.is_file() for file in old)


@pytest.mark.parametrize("version", [1, 3, None])
def test_an_encoded_text_of_another_version_is_made_again(path: Path, built: list[Path], version: int | None) -> None:
    metadata = get(path).folder / encoded.METADATA
    content = json.loads(metadata.read_bytes())
    assert content["format_version"] == encoded.FORMAT_VERSION
    del content["format_version"]
    metadata.write_text(json.dumps(content if version is None else {**content, "format_version": version}))
    assert text_of(get(path)) == "some text\n" * 10
    assert json.loads(metadata.read_bytes())["format_version"] == encoded.FORMAT_VERSION
    get(path)
    assert len(built) == 2


@pytest.mark.parametrize("version", [1, 3, None])
def test_an_index_entry_of_another_version_is_made_again(path: Path, built: list[Path], version: int | None) -> None:
    get(path)
    (entry,) = (path.parent / "cache" / cache.INDEX).iterdir()
    content = json.loads(entry.read_bytes())
    assert content.pop("format_version") == encoded.FORMAT_VERSION
    entry.write_text(json.dumps(content if version is None else {**content, "format_version": version}))
    get(path)
    get(path)
    assert len(built) == 2
    assert json.loads(entry.read_bytes()) == {**content, "format_version": encoded.FORMAT_VERSION}


def test_every_key_of_an_encoded_text_is_required(path: Path, built: list[Path]) -> None:
    metadata = get(path).folder / encoded.METADATA
    whole = json.loads(metadata.read_bytes())
    changed = [{other: value for other, value in whole.items() if other != name} for name in whole]
    (file,) = whole["files"]
    changed += [{**whole, "files": [{other: value for other, value in file.items() if other != name}]} for name in file]
    assert len(changed) == 10
    for number, content in enumerate(changed, 2):
        metadata.write_text(json.dumps(content))
        assert text_of(get(path)) == "some text\n" * 10
        assert len(built) == number, content


def test_cleaning_up_removes_entries_of_every_version(path: Path) -> None:
    folder = path.parent / "cache"
    write_version_1(folder)
    metadata = get(path).folder / encoded.METADATA
    metadata.write_text(json.dumps({**json.loads(metadata.read_bytes()), "format_version": 3}))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert cache.clean(folder) == size
    assert [file for file in folder.rglob("*") if file.is_file()] == []


def test_cleaning_up_leaves_what_is_not_charlms(path: Path) -> None:
    folder = path.parent / "cache"
    mine = []
    for name in ("texts", "seen", cache.TEXTS, cache.INDEX):
        (folder / name / "0f" / KEY_1).mkdir(parents=True)
        (folder / name / KEY_1).mkdir()
        mine += [folder / name / "notes.json", folder / name / KEY_1 / "notes.txt", folder / name / "0f" / "ids.bin"]
    for file in mine:
        file.write_text("mine")
    get(path)
    cache.clean(folder)
    assert sorted(file for file in folder.rglob("*") if file.is_file()) == sorted(mine)


def test_an_open_text_survives_cleaning_up(path: Path) -> None:
    found = get(path)
    cache.clean(path.parent / "cache")
    assert text_of(found) == "some text\n" * 10


def test_what_another_process_is_building_is_left_alone_and_what_a_dead_one_left_is_not(path: Path) -> None:
    folder = path.parent / "cache"
    get(path)
    (folder / cache.TEXTS / f"{files.BUILDING_MARK}dead").mkdir()
    (folder / cache.TEXTS / f"{files.BUILDING_MARK}dead" / "ids.bin").write_bytes(b"half")
    (folder / cache.TEXTS / f"{files.BUILDING_MARK}dead.lock").touch()
    with files.built(folder / cache.TEXTS) as building:
        (building.folder / "ids.bin").write_bytes(b"half")
        cache.clean(folder)
        assert building.folder in temporary_files(folder)
        assert (building.folder / "ids.bin").exists()
        assert not list(folder.rglob("*dead*"))
        building.path = folder / cache.TEXTS / "done"
    assert (folder / cache.TEXTS / "done" / "ids.bin").read_bytes() == b"half"


def test_two_that_encode_the_same_text_at_once_both_get_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, found = threading.Barrier(2), []
    build = encoded.build

    def together(*arguments: object) -> object:
        result = build(*arguments)  # type: ignore[arg-type]
        both.wait(30)  # both are done before either gives its folder the name
        return result

    monkeypatch.setattr(encoded, "build", together)
    threads = [threading.Thread(target=lambda: found.append(text_of(get(path)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["some text\n" * 10] * 2
    assert not temporary_files(path.parent)


def test_processes_that_encode_the_same_text_at_once_do_not_hurt_each_other(path: Path) -> None:
    write(path, "text of some length\n" * 200_000)
    code = (
        "import sys; from pathlib import Path\n"
        "from charlm.corpus import cache; from charlm.config import CorpusSettings\n"
        "found = cache.get(Path(sys.argv[1]), [Path(sys.argv[2])], CorpusSettings()); print(len(found.ids))"
    )
    command = [sys.executable, "-c", code, str(path.parent / "cache"), str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["4000000\n"] * 4
    assert not temporary_files(path.parent)


def test_the_folder_is_the_users_own_unless_a_variable_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "/elsewhere")
    assert cache.default_folder() == Path("/elsewhere")
    monkeypatch.delenv(cache.VARIABLE)
    assert cache.default_folder().name == "charlm"
