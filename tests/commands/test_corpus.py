"""``charlm corpus``: texts are had by name, and what goes wrong is said."""

import hashlib
from pathlib import Path

import pytest

from charlm.corpus import download
from charlm.corpus.download import CORPORA, Published
from tests.commands.conftest import Cli
from tests.corpus.test_download import TEXT, Handler, Serve, serve

__all__ = ["serve"]  # a fixture


@pytest.fixture
def known(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of that name, which a server on this machine has."""
    address = serve(lambda handler: handler.say(TEXT))
    checksum = hashlib.sha256(TEXT).hexdigest()
    monkeypatch.setitem(CORPORA, "known", Published(address, len(TEXT), "sha256", checksum, "", "free", "a text"))


@pytest.mark.usefixtures("known")
def test_get_puts_the_text_into_data_and_prints_only_its_path(cli: Cli) -> None:
    result = cli("corpus", "get", "known")
    assert result.code == 0
    assert (result.out, result.err) == (f"{Path('data', 'known.txt')}\n", "")
    assert Path("data", "known.txt").read_bytes() == TEXT


@pytest.mark.usefixtures("known")
def test_get_a_second_time_says_that_it_is_there(cli: Cli) -> None:
    first = cli("corpus", "get", "known", "--folder", "mine")
    second = cli("corpus", "get", "known", "--folder", "mine")
    assert second.code == 0
    assert second.out == first.out
    assert second.err == f"{Path('mine', 'known.txt')} is there already, and is right.\n"
    assert cli("corpus", "get", "known", "--folder", "mine", "--quiet").err == ""
    assert Handler.asked == ["/0"]


@pytest.mark.usefixtures("known")
def test_get_overwrites_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("mine")
    result = cli("corpus", "get", "known", "--folder", ".")
    assert result.code == 1
    assert result.out == ""
    assert CORPORA["known"].checksum in result.err
    assert (tmp_path / "known.txt").read_text() == "mine"


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_get_shows_its_progress_in_bytes_on_a_terminal_unless_quiet(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    result = cli("corpus", "get", "known", *["--quiet"] * quiet)
    assert result.code == 0
    assert ("/1.00M " in result.err and "B/s" in result.err) == (terminal and not quiet)


@pytest.mark.usefixtures("known")
def test_a_failure_is_two_lines_and_exit_code_1(cli: Cli, tmp_path: Path) -> None:
    Handler.answers["/0"] = lambda handler: handler.send_error(404)
    result = cli("corpus", "get", "known")
    assert result.code == 1
    assert result.out == ""
    assert len(result.err.splitlines()) == 2
    assert "404" in result.err
    assert list((tmp_path / "data").iterdir()) == []


def test_an_unknown_name_gets_the_nearest_and_all_the_known_ones(cli: Cli, tmp_path: Path) -> None:
    result = cli("corpus", "get", "tinyshakspeare")
    assert result.code == 2
    assert "Did you mean tinyshakespeare?" in result.err
    assert all(name in result.err for name in CORPORA)
    assert not (tmp_path / "data").exists()


def test_an_unknown_subcommand_gets_the_nearest(cli: Cli) -> None:
    result = cli("corpus", "gett")
    assert result.code == 2
    assert "'get'" in result.err


def test_the_help_of_get_lists_each_corpus_with_size_and_licence(cli: Cli) -> None:
    text = " ".join(cli("corpus", "get", "--help").out.split())
    for name, corpus in download.CORPORA.items():
        assert f"{name} {corpus.description}; {corpus.size_bytes / 1e6:,.1f} MB; {corpus.licence}" in text
