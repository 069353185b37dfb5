import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.corpus import sources
from charlm.errors import TextError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(*names: object, encoding: str = "utf-8") -> str:
    _, paths = sources.find([str(name) for name in names])
    return sources.read(paths, encoding)[0]


@pytest.mark.parametrize("names", [[], ["python"]])
def test_the_built_in_corpus_is_there_with_no_file_named(names: list[str], here: Path) -> None:
    name, paths = sources.find(names)
    text, files = sources.read(paths, "utf-8")
    assert name == "python"
    assert 1_000_000 < len(text) < 20_000_000
    assert sum(file.characters for file in files) == len(text)


def test_the_built_in_corpus_is_in_the_order_of_the_file_names(here: Path) -> None:
    _, paths = sources.find([])
    names = [path.name for path in paths]
    assert names == sorted(names)
    assert {"argparse.py", "typing.py"} <= set(names)


def test_a_file_called_python_wins_over_the_built_in_corpus(here: Path) -> None:
    Path("python").write_text("import this")
    assert sources.find(["python"]) == ("python", [Path("python")])
    assert read("python") == "import this"


def test_a_file_called_python_does_not_change_what_no_name_means(here: Path) -> None:
    Path("python").write_text("import this")
    _, paths = sources.find([])
    assert Path("python") not in paths


def test_files_are_joined_in_the_order_given(here: Path) -> None:
    for name, text in (("b", "first "), ("a", "second "), ("c", "third")):
        Path(name).write_text(text)
    assert read("b", "a", "c") == "first second third"


def test_the_first_file_gives_the_corpus_its_name(here: Path) -> None:
    Path("much.ado.txt").touch()
    Path("a.txt").touch()
    assert sources.find(["much.ado.txt", "a.txt"])[0] == "much.ado"


def test_the_byte_order_mark_of_every_file_is_dropped(here: Path) -> None:
    Path("a").write_bytes(b"\xef\xbb\xbfone")
    Path("b").write_bytes(b"\xef\xbb\xbftwo")
    assert read("a", "b") == "onetwo"


def test_only_the_first_byte_order_mark_of_a_file_is_one(here: Path) -> None:
    Path("a").write_bytes("\ufeffone\ufefftwo".encode())
    assert read("a") == "one\ufefftwo"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "UTF8", "utf-8-sig"])
def test_the_encoding_that_is_named_is_used(here: Path, encoding: str) -> None:
    Path("a").write_bytes("déjà vu\n".encode(encoding))
    assert read("a", encoding=encoding) == "déjà vu\n"


@given(st.text())
def test_every_character_of_a_file_stays_line_ends_too(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(("x\r\ny\rz\n" + text).encode())
    assert read(path) == "x\r\ny\rz\n" + text


def test_what_was_read_is_recorded(here: Path) -> None:
    data = "\ufeffdéjà\r\n".encode()
    Path("a").write_bytes(data)
    _, (source,) = sources.read([Path("a")], "utf-8")
    assert source.record() == {
        "path": "a",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "characters": 6,
    }


@pytest.mark.parametrize(
    ("data", "offset", "line"), [(b"\xff", 0, 1), (b"one\ntwo\n\xc3\xa9 \xff", 11, 3), (b"a\r\nb\r\n\xc3", 6, 3)]
)
def test_bytes_that_do_not_decode_are_named_by_file_offset_and_line(
    here: Path, data: bytes, offset: int, line: int
) -> None:
    Path("good").write_text("fine\n" * 10)
    Path("bad").write_bytes(data)
    with pytest.raises(
        TextError, match=rf"^bad: not utf-8: byte 0x{data[offset]:02x} at offset {offset} \(line {line}\)"
    ):
        read("good", "bad")


@pytest.mark.parametrize("encoding", ["utf-9", "", "base64", "undefined"])
def test_an_encoding_that_is_none_of_text_is_refused(here: Path, encoding: str) -> None:
    Path("a").write_text("abcd")
    with pytest.raises(UsageError, match=f"^--encoding {encoding}: "):
        read("a", encoding=encoding)


def test_a_name_that_is_no_file_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match=r"^plya\.txt: no such file"):
        sources.find(["plya.txt"])


def test_a_folder_is_refused_with_what_to_write_instead(here: Path) -> None:
    Path("plays").mkdir()
    with pytest.raises(UsageError, match=r"^plays: is a folder") as raised:
        sources.find(["plays"])
    assert str(Path("plays") / "*.txt") in raised.value.hint


def test_the_second_name_is_checked_too(here: Path) -> None:
    Path("a").touch()
    with pytest.raises(UsageError, match=r"^b: no such file"):
        sources.find(["a", "b"])


def test_a_file_that_goes_away_is_an_error_for_people(here: Path) -> None:
    with pytest.raises(UsageError, match=r"^gone: cannot be read: "):
        sources.read([Path("gone")], "utf-8")
