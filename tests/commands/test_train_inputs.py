"""Every kind of text by the command line, from the source to a sample; and what is wrong with each."""

import bz2
import errno
import gzip
import io
import lzma
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm import runs
from charlm.checkpoint.contents import SavedModel
from charlm.corpus import encoded_text, streams
from charlm.run_corpus import CorpusFile
from tests.commands.conftest import Cli
from tests.commands.test_bad_input import assert_rejected
from tests.conftest import SMALL
from tests.corpus.test_decoding import SCRIPTS

Pipe = Callable[[bytes], None]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """Puts bytes on standard input."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


def trained(cli: Cli, *arguments: object) -> SavedModel:
    result = cli("train", *arguments, *SMALL, "--max-steps", "2", "--quiet")
    assert result.code == 0, result.err
    return runs.load_model(Path(result.out.strip()), "latest")


def files_of(saved: SavedModel) -> list[str]:
    assert saved.folder is not None
    record = CorpusFile.find(saved.folder.parent, saved.corpus)
    assert record is not None
    return [Path(file.path).name for file in record.files]


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_scripts_are_trained_on_and_generated(cli: Cli, tmp_path: Path, script: str) -> None:
    (tmp_path / "text.txt").write_text(SCRIPTS[script] * 30, encoding="utf-8")
    saved = trained(cli, "text.txt")
    assert saved.vocabulary.characters == sorted(set(SCRIPTS[script]))
    prompt = SCRIPTS[script][:5]
    result = cli("sample", "checkpoints/text", "--prompt", prompt, "--length", "20", "--seed", "1")
    assert result.code == 0, result.err
    assert result.out.startswith(prompt)
    assert set(result.out) - {"\n"} <= set(SCRIPTS[script])


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_file(cli: Cli, tmp_path: Path, poem: str, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    (tmp_path / f"poem.txt{suffix}").write_bytes(compress(poem.encode()))
    saved = trained(cli, f"poem.txt{suffix}")
    assert saved.corpus.name == "poem"
    assert saved.corpus.length == len(poem)


def test_folder_pattern_and_files_together(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "plays").mkdir()
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / "plays" / name).write_text(poem, encoding="utf-8")
    assert files_of(trained(cli, "plays", "--out", "one")) == ["a.txt", "b.txt", "c.md"]
    assert files_of(trained(cli, "plays/*.txt", "plays/c.md", "plays/b.txt", "--out", "two")) == [
        *("a.txt", "b.txt", "c.md", "b.txt")
    ]


def test_resume_of_stdin_run_uses_cache(cli: Cli, pipe: Pipe, poem: str) -> None:
    pipe(poem.encode())
    assert trained(cli, "-").corpus.name == "stdin"
    pipe(b"")
    result = cli("train", "--resume", "checkpoints/stdin", "--max-steps", "4", "--quiet")
    assert result.code == 0, result.err
    assert runs.load_model(Path("checkpoints/stdin"), "latest").step == 4


def test_resume_from_stdin_without_cache_asks_for_text(cli: Cli, pipe: Pipe, tmp_path: Path, poem: str) -> None:
    pipe(poem.encode())
    trained(cli, "-", "--cache-dir", "kept")
    shutil.rmtree("kept")
    assert_rejected(
        cli, 2, "train", "--resume", "checkpoints/stdin", "--cache-dir", "kept", expected=("-", "charlm train TEXT")
    )
    pipe(poem.encode())
    result = cli("train", "-", "--resume", "checkpoints/stdin", "--max-steps", "4", "--cache-dir", "kept", "--quiet")
    assert result.code == 0, result.err


def test_resume_uses_cache_if_file_is_missing_but_not_if_edited(cli: Cli, poem_file: Path) -> None:
    trained(cli, poem_file, "--out", "run")
    text = poem_file.read_bytes()
    poem_file.write_bytes(text + b"more")
    assert_rejected(
        cli,
        2,
        "train",
        "--resume",
        "run",
        expected=(
            "poem.txt",
            "charlm train TEXT",
        ),
    )
    poem_file.unlink()
    assert cli("train", "--resume", "run", "--max-steps", "4", "--quiet").code == 0


def test_bytes_of_any_file_are_learned_and_given_back(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "any.bin").write_bytes(random.Random(0).randbytes(3000))
    saved = trained(cli, "any.bin", "--unit", "byte")
    assert saved.vocabulary.unit == "byte"
    result = cli("sample", "checkpoints/any", "--length", "300", "--seed", "1")
    assert result.code == 0, result.err
    assert len(result.data) == 300


def test_rare_characters_are_reported_and_never_generated(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "poem.txt").write_text(poem + "☃" * 4 + "☀" * 4, encoding="utf-8")
    result = cli("train", "poem.txt", *SMALL, "--min-count", "5")
    assert "2 rare characters (8 occurrences)" in result.err
    sampled = cli("sample", "checkpoints/poem", "--length", "2000", "--temperature", "5", "--seed", "1").out
    assert set(sampled) <= set(poem)


def test_number_of_documents_is_reported(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Anna\nBert\nCleo\n" * 40)
    result = cli("train", "names.txt", *SMALL, "--document-separator", r"\n")
    assert result.code == 0, result.err
    assert "120 documents" in result.err
    assert cli("sample", "checkpoints/names", "--length", "50", "--seed", "1").code == 0


def test_finetuning(cli: Cli, poem_file: Path, tmp_path: Path) -> None:
    trained(cli, poem_file)
    (tmp_path / "new.txt").write_text("☃ ist neu. " * 60, encoding="utf-8")
    result = cli("train", "new.txt", "--init-from", "checkpoints/poem", "--max-steps", "2", "--threads", "1")
    assert result.code == 0, result.err
    assert "checkpoints/poem" in result.err
    assert "1 new character." in result.err
    assert runs.load_model(Path("checkpoints/new")).settings.hidden_size == 16


def test_cache_dir_option_and_variable(cli: Cli, poem_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(cli, poem_file, "--cache-dir", "here", "--out", "one")
    assert list(Path("here/encoded").iterdir())
    monkeypatch.setenv("CHARLM_CACHE_DIR", "there")
    trained(cli, poem_file, "--out", "two")
    assert list(Path("there/encoded").iterdir())
    result = cli("cache", "clear")
    assert result.code == 0
    assert "0.0 MB" in result.err
    assert "there" in result.err
    assert not list(Path("there/encoded").iterdir())


# What is wrong


def test_empty_input_of_every_kind_is_rejected(cli: Cli, pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "empty.txt").touch()
    pipe(b"")
    for name in ("empty.gz", "folder", "-"):
        assert_rejected(cli, 1, "train", name, expected=(name.removesuffix("folder"), "empty"))


def test_short_input_of_every_kind_is_rejected(cli: Cli, pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "short.gz").write_bytes(gzip.compress(b"ab" * 35))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "short.txt").write_bytes(b"ab" * 35)
    pipe(b"ab" * 35)
    for name in ("short.gz", "folder", "-"):
        assert_rejected(cli, 1, "train", name, expected=("70 characters", "at least 72"))


def test_undecodable_input_of_every_kind_is_rejected(cli: Cli, pipe: Pipe, tmp_path: Path) -> None:
    text = b"one\ntwo caf\xe9 au lait\n" * 300
    (tmp_path / "latin.gz").write_bytes(gzip.compress(text))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "latin.txt").write_bytes(text)
    pipe(text)
    for name in ("latin.gz", "folder", "-"):
        assert_rejected(cli, 1, "train", name, expected=("0xe9", "offset 11", "line 2", "cp1252"))


def test_truncated_gzip_is_rejected(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "poem.gz").write_bytes(gzip.compress(poem.encode())[:-20])
    assert_rejected(cli, 1, "train", "poem.gz", expected=("poem.gz", "damaged"))


def test_binary_file_is_rejected(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 200)
    assert_rejected(cli, 1, "train", "picture.png", expected=("picture.png", "binary", "--unit byte"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_named_pipe_as_input(cli: Cli, tmp_path: Path, poem: str) -> None:
    os.mkfifo(tmp_path / "pipe")  # type: ignore[attr-defined, unused-ignore]
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(poem,), kwargs={"encoding": "utf-8"})
    writer.start()
    assert trained(cli, "pipe").corpus.length == len(poem)
    writer.join()


def test_full_disk_under_cache_is_reported(cli: Cli, poem_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(encoded_text.IdWriter, "add", full)
    assert_rejected(cli, 1, "train", poem_file, expected=("No space left", "--cache-dir", "charlm cache clear"))


def test_cache_dir_that_is_a_file_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--cache-dir", poem_file, expected=("--cache-dir",), lines=3)


@pytest.mark.parametrize("name", ["encoding", "decode-errors", "newline", "normalize", "min-count"])
def test_character_settings_are_rejected_with_unit_byte(cli: Cli, poem_file: Path, name: str) -> None:
    value = {"encoding": "latin-1", "decode-errors": "replace", "newline": "lf", "normalize": "nfc", "min-count": "2"}
    says = (f"--{name} ", "bytes")
    assert_rejected(cli, 2, "train", poem_file, "--unit", "byte", f"--{name}", value[name], expected=says)


def test_missing_document_separator_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(cli, 1, "train", poem_file, "--document-separator", "§", expected=("'§'", "no document"))


def test_min_count_without_remaining_characters_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(cli, 1, "train", poem_file, "--min-count", "1000000", expected=("--min-count 1000000",))


@pytest.mark.parametrize(
    ("written", "meant"), [(r"\n", "\n"), (r"\\n", r"\n"), (r"\r\n", "\r\n"), (r"\\title", r"\title"), ("\n", "\n")]
)
def test_document_separator_escapes_are_decoded(cli: Cli, tmp_path: Path, written: str, meant: str) -> None:
    (tmp_path / "names.txt").write_text(f"Anna{meant}Bert{meant}Cleo{meant}" * 40, newline="")
    saved = trained(cli, "names.txt", "--document-separator", written)
    assert saved.settings.document_separator == meant
    result = cli("train", "--resume", "checkpoints/names", "--max-steps", "4", "--quiet")
    assert result.code == 0, result.err
    result = cli("train", "names.txt", "--config", "checkpoints/names/config.toml", "--out", "two", "--quiet")
    assert result.code == 0, result.err
    assert runs.load_model(Path("two")).settings.document_separator == meant


def test_undecodable_document_separator_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(
        cli,
        2,
        "train",
        poem_file,
        "--unit",
        "byte",
        "--document-separator",
        "\udcff",
        expected=("--document-separator",),
    )


def test_file_named_python_is_used_instead_of_built_in_corpus(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "python.txt").write_text(poem, encoding="utf-8")
    result = cli("train", "python.txt", *SMALL, "--max-steps", "2")
    assert result.code == 0, result.err
    assert "standard library" not in result.err
    assert cli("train", "--resume", "checkpoints/python", "--max-steps", "4", "--quiet").code == 0
    shutil.rmtree("checkpoints/python/step-00000002", ignore_errors=True)
    shutil.rmtree("checkpoints/python/step-00000004")
    result = cli("train", "--resume", "checkpoints/python", "--quiet")
    assert result.code == 0, result.err
    assert files_of(runs.load_model(Path("checkpoints/python"))) == ["python.txt"]


def test_run_from_pipe_killed_before_first_checkpoint(cli: Cli, pipe: Pipe, poem: str) -> None:
    pipe(poem.encode())
    trained(cli, "-")
    for folder in runs.list_checkpoints(Path("checkpoints/stdin")):
        shutil.rmtree(folder)
    pipe(b"")
    assert cli("train", "--resume", "checkpoints/stdin", "--quiet").code == 0


def test_resumed_folder_corpus_keeps_its_name(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "letters").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "letters" / name).write_text(poem, encoding="utf-8")
    trained(cli, "letters")
    assert cli("train", "--resume", "checkpoints/letters", "--max-steps", "4", "--quiet").code == 0
    assert runs.load_model(Path("checkpoints/letters"), "latest").corpus.name == "letters"
    record = CorpusFile.read(Path("checkpoints/letters"))
    assert (record.name, record.inputs) == ("letters", ["letters"])


def test_cache_clear_keeps_foreign_files(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "encoded").mkdir()
    for name in ("mine.txt", "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef.json"):
        (tmp_path / "encoded" / name).write_text(poem, encoding="utf-8")
    trained(cli, "encoded/mine.txt", "--cache-dir", ".")
    before = sorted(path.name for path in (tmp_path / "encoded").iterdir())
    assert len(before) == 4
    assert cli("cache", "clear", "--cache-dir", ".").code == 0
    left = sorted(path.name for path in (tmp_path / "encoded").iterdir())
    assert left == [name for name in before if name.startswith(("mine", "0123"))]


def test_changed_init_from_on_resume_is_rejected(cli: Cli, poem_file: Path) -> None:
    trained(cli, poem_file)
    assert_rejected(
        cli, 2, "train", "--resume", "checkpoints/poem", "--init-from", "checkpoints/poem", expected=("init_from",)
    )


def test_downloaded_corpus_is_found_by_name(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tinyshakespeare.txt").write_text(poem, encoding="utf-8")
    saved = trained(cli, "tinyshakespeare")
    assert saved.corpus.name == "tinyshakespeare"


def test_unsupported_zst_in_folder_or_pattern_is_rejected(
    cli: Cli, tmp_path: Path, poem_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(streams.DECOMPRESSORS, ".zst", raising=False)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    for name in ("folder", "folder/*.zst", "folder/a.zst"):
        assert_rejected(cli, 2, "train", name, expected=("a.zst", "Python 3.14"))


def test_invalid_pattern_is_rejected(cli: Cli) -> None:
    assert_rejected(cli, 2, "train", "texts/**.txt", expected=("texts/**.txt", "folder/**/*.txt"))


def test_unreadable_folder_is_rejected(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(folder: Path, onerror: Callable[[OSError], None]) -> list[object]:
        onerror(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / "secret")))
        return []

    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(os, "walk", denied)  # permissions do not bind the superuser, who may run this
    assert_rejected(cli, 2, "train", "folder", expected=("secret", "Permission denied"))


def test_decodable_binary_file_warns(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "archive.tar").write_bytes(b"name\0\0\0" * 1000 + poem.encode())
    result = cli("train", "archive.tar", *SMALL, "--max-steps", "1")
    assert result.code == 0, result.err
    assert "archive.tar: looks like a binary file" in result.err
    assert "--unit byte" in result.err


def test_all_unicode_characters_at_once(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    (tmp_path / "all.txt").write_bytes(everything.encode())
    monkeypatch.setattr("charlm.training.estimate.read_memory_bytes", lambda: 16 * 10**9)
    assert_rejected(cli, 1, "train", "all.txt", expected=("1,112,064 characters", "GB", "--min-count"))


def test_init_from_missing_run_is_rejected(cli: Cli, poem_file: Path) -> None:
    assert_rejected(cli, 2, "train", poem_file, "--init-from", "nowhere", expected=("nowhere", "no such run"))
