"""``charlm corpus``: texts are had by name, and what goes wrong is said."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from charlm.config import CorpusSettings, TrainSettings
from charlm.corpus import download, loading
from charlm.corpus.download import CORPORA, DownloadableCorpus
from charlm.corpus.split import make_split
from charlm.training import estimate
from tests.commands.conftest import Cli
from tests.corpus.test_download import TEXT, Handler, Serve, serve

__all__ = ["serve"]  # a fixture


@pytest.fixture
def known_corpora(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of that name, which a server on this machine has."""
    address = serve(lambda handler: handler.respond(TEXT))
    checksum = hashlib.sha256(TEXT).hexdigest()
    monkeypatch.setitem(
        CORPORA, "known", DownloadableCorpus(address, len(TEXT), "sha256", checksum, "", "free", "a text")
    )


@pytest.mark.usefixtures("known_corpora")
def test_get_saves_text_in_data_and_prints_path(cli: Cli) -> None:
    result = cli("corpus", "get", "known")
    assert result.code == 0
    assert (result.out, result.err) == (f"{Path('data', 'known.txt')}\n", "")
    assert Path("data", "known.txt").read_bytes() == TEXT


@pytest.mark.usefixtures("known_corpora")
def test_second_get_reports_existing_file(cli: Cli) -> None:
    first = cli("corpus", "get", "known", "--dir", "mine")
    second = cli("corpus", "get", "known", "--dir", "mine")
    assert second.code == 0
    assert second.out == first.out
    assert str(Path("mine", "known.txt")) in second.err
    assert cli("corpus", "get", "known", "--dir", "mine", "--quiet").err == ""
    assert Handler.asked == ["/0"]


@pytest.mark.usefixtures("known_corpora")
def test_get_does_not_overwrite_existing_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("mine")
    result = cli("corpus", "get", "known", "--dir", ".")
    assert result.code == 1
    assert result.out == ""
    assert CORPORA["known"].checksum in result.err
    assert (tmp_path / "known.txt").read_text() == "mine"


@pytest.mark.usefixtures("known_corpora")
@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_get_shows_progress_in_bytes_on_terminal_unless_quiet(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    result = cli("corpus", "get", "known", *["--quiet"] * quiet)
    assert result.code == 0
    assert ("/1.00M " in result.err and "B/s" in result.err) == (terminal and not quiet)


@pytest.mark.usefixtures("known_corpora")
def test_download_failure_is_two_lines_and_exit_code_1(cli: Cli, tmp_path: Path) -> None:
    Handler.answers["/0"] = lambda handler: handler.send_error(404)
    result = cli("corpus", "get", "known")
    assert result.code == 1
    assert result.out == ""
    assert len(result.err.splitlines()) == 2
    assert "404" in result.err
    assert list((tmp_path / "data").iterdir()) == []


def test_unknown_corpus_suggests_nearest_and_lists_all(cli: Cli, tmp_path: Path) -> None:
    result = cli("corpus", "get", "tinyshakspeare")
    assert result.code == 2
    assert "Did you mean tinyshakespeare?" in result.err
    assert all(name in result.err for name in CORPORA)
    assert not (tmp_path / "data").exists()


def test_unknown_subcommand_suggests_nearest(cli: Cli) -> None:
    result = cli("corpus", "gett")
    assert result.code == 2
    assert "'get'" in result.err


def test_get_help_lists_corpora_with_size_and_license(cli: Cli) -> None:
    text = " ".join(cli("corpus", "get", "--help").out.split())
    for name, corpus in download.CORPORA.items():
        assert f"{name} {corpus.description}; {corpus.size_bytes / 1e6:,.1f} MB; {corpus.license}" in text


# inspect


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step stands for several."""
    monkeypatch.setattr(estimate, "WARMUP_STEPS", 0)
    monkeypatch.setattr(estimate, "TIMED_STEPS", 1)


def inspect_json(cli: Cli, *arguments: object) -> Any:
    result = cli("corpus", "inspect", *arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_inspect_counts_characters_and_lines(cli: Cli, tmp_path: Path) -> None:
    text = "one line\r\nanother, longer\nthe third\r" + "☃\x07\x07\N{RIGHT-TO-LEFT OVERRIDE}" + "\nabc" * 500
    (tmp_path / "text.txt").write_bytes(text.encode())
    report = inspect_json(cli, "text.txt", "--test-fraction", "0.1")
    assert report["characters"] == len(text)
    assert report["size_bytes"] == len(text.encode())
    assert report["distinct_characters"] == len(set(text))
    assert report["line_ends"] == {"crlf": 1, "lone_lf": 501, "lone_cr": 1}
    assert report["lines"]["lines"] == 503
    assert report["lines"]["longest"] == len("another, longer")
    assert {"character": "☃", "description": "'☃' (U+2603 SNOWMAN)", "count": 1} in report["rare"]
    assert [entry["character"] for entry in report["control"]] == ["\x07", "\N{RIGHT-TO-LEFT OVERRIDE}"]
    assert report["control_characters"] == 3
    ranges = make_split(len(text), CorpusSettings(test_fraction=0.1)).to_ranges()
    assert report["ranges"] == ranges
    assert report["most_frequent"][:4] in {"".join(p) for p in itertools.permutations("\nabc")}
    train_end, validation_end = ranges["validation"]
    assert report["overlap"]["validation_characters"] == validation_end - train_end
    assert report["overlap"]["longest"][0]["length"] == validation_end - train_end
    assert report["baselines"]["ngram_bits"][2] < report["baselines"]["ngram_bits"][0] < 3
    assert set(report["training_seconds"]) == {"tiny", "default"}
    assert report["suggested_preset"] == "default"


def test_inspect_report_text(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "poem.txt").write_text(poem + "☃\x07", encoding="utf-8", newline="")
    page = cli("corpus", "inspect", "poem.txt", "--document-separator", r"\n").out
    for fact in (
        f"poem: 1 file, {len((poem + '☃' + chr(7)).encode()):,} bytes, {len(poem) + 2:,} characters",
        "Documents           71",
        "70 \\n\n",
        "1 × '☃' (U+2603 SNOWMAN)",
        "1 × '\\x07' (U+0007 BELL)",
        "100 characters occurs both in training and in the first 408 of validation",
        "context of 5",
        "xz",
        "charlm train … --config default",
    ):
        assert fact in page


def test_inspect_reports_text_too_short_for_presets(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("ab" * 10)
    assert inspect_json(cli, "short.txt")["suggested_preset"] is None
    assert "no preset fits" in cli("corpus", "inspect", "short.txt").out
    (tmp_path / "short.txt").write_text("ab" * 20)
    assert inspect_json(cli, "short.txt")["suggested_preset"] == "tiny"


def test_inspect_of_all_code_points_fits_in_memory(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(chr(0x4E00 + code) for code in range(20_000)) * 2
    (tmp_path / "many.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr(estimate, "read_memory_bytes", lambda: 300_000_000)
    report = inspect_json(cli, "many.txt")
    assert report["rare_characters"] == 20_000
    assert len(report["rare"]) == 1000
    assert set(report["training_seconds"]) == {"tiny"}
    assert report["suggested_preset"] == "tiny"


def test_inspect_byte_unit_and_min_count(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "any.bin").write_bytes(bytes(range(256)) * 20)
    report = inspect_json(cli, "any.bin", "--unit", "byte")
    assert report["distinct_bytes"] == 256
    assert report["bytes"] == report["size_bytes"] == 256 * 20
    assert "character" not in json.dumps(report)
    assert report["most_frequent"] == list(range(100))
    assert "character" not in cli("corpus", "inspect", "any.bin", "--unit", "byte").out
    (tmp_path / "text.bin").write_bytes(b"abc" * 500 + b"\xe9\x07\x80")
    report = inspect_json(cli, "text.bin", "--unit", "byte")
    assert report["rare"] == [
        {"byte": 7, "description": "'\\x07' (U+0007 BELL)", "count": 1},
        {"byte": 0x80, "description": "0x80", "count": 1},
        {"byte": 0xE9, "description": "0xE9", "count": 1},
    ]
    assert [entry["byte"] for entry in report["control"]] == [7]  # 0x80 alone is a part of a character
    (tmp_path / "text.txt").write_text("abc" * 500 + "☃")
    assert inspect_json(cli, "text.txt", "--min-count", "5")["distinct_characters"] == 4


@pytest.mark.parametrize(
    ("content", "code", "says"), [(b"", 1, "empty"), (b"caf\xe9 " * 99, 1, "0xe9"), (None, 2, "no such file")]
)
def test_inspect_rejects_invalid_text(cli: Cli, tmp_path: Path, content: bytes | None, code: int, says: str) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    result = cli("corpus", "inspect", "text.txt")
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert len(result.err.splitlines()) <= 2


def test_training_time_is_estimated_from_a_few_steps(tmp_path: Path, poem_file: Path) -> None:
    settings = TrainSettings(hidden_size=8, embedding_size=4, batch_size=2, sequence_length=16, max_steps=10)
    corpus = loading.load_corpus([str(poem_file)], settings, 16)
    assert 0 < estimate.estimate_seconds(settings, corpus) < 60
    assert not (tmp_path / "checkpoints").exists()
