"""The other pages of documentation: their commands and examples run, only shortened; the outputs they show look like
real ones; the links of all pages lead somewhere.
"""

import dataclasses
import gzip
import hashlib
import io
import random
import re
import shlex
import signal
import sys
import threading
import unicodedata
from pathlib import Path

import pytest
import torch

import charlm
from charlm.corpus import download
from tests.commands.conftest import Cli, bench_in_this_process, cli
from tests.conftest import ROOT, SMALL

__all__ = ["bench_in_this_process", "cli"]  # fixtures

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "data", "checkpoints", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
EXTERNAL = ("http://", "https://", "mailto:")
LINKS = [
    (page, target)
    for page in PAGES
    for _, target in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    if not target.startswith(EXTERNAL)
]
# What is appended to a command of a page: the last value of an option counts
SHORT = {
    "train": SMALL,
    "sample": ("--length", "20"),
    "bench": ("--hidden-size", "8", "--batch-size", "2", "--sequence-length", "4", "--rounds", "1", "--threads", "1"),
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of a page's blocks of commands in which charlm is called."""
    lines = [line.split("  #")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if re.match(r"(.*\| |nice )?charlm ", line)]


# README.md has tests of its own
PAGES_WITH_COMMANDS = [page for page in PAGES if page != "README.md" and commands(page)]


@pytest.fixture
def _texts(tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts that the pages use, in the folder in which their commands run."""
    text = "ROMEO: But soft!\n" + poem
    for name in ("play.txt", "part.txt", "held-out.txt", "data/tinyshakespeare.txt", "letters/a.txt", "letters/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    data = text.encode()
    corpus = download.CORPORA["tinyshakespeare"]  # so that it need not be downloaded
    checksum = hashlib.new(corpus.checksum_algorithm, data).hexdigest()
    monkeypatch.setitem(
        download.CORPORA, "tinyshakespeare", dataclasses.replace(corpus, size_bytes=len(data), checksum=checksum)
    )
    (tmp_path / "play.txt.gz").write_bytes(gzip.compress(data))
    (tmp_path / "new.txt").write_text(text + "☃", encoding="utf-8", newline="")
    (tmp_path / "old.txt").write_bytes(("déjà vu " * 500).encode("cp1252"))
    (tmp_path / "picture.png").write_bytes(random.Random(0).randbytes(3000))
    (tmp_path / "sounds.raw").write_bytes(random.Random(1).randbytes(3000))
    (tmp_path / "start.raw").write_bytes(random.Random(2).randbytes(30))
    (tmp_path / "names.txt").write_bytes(b"Anna\nBert\nCleo\n" * 100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLM_CACHE_DIR", "cache")


@pytest.mark.usefixtures("_texts", "bench_in_this_process")
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_every_documented_command_runs(cli: Cli, poem: str, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(page)
    if "charlm train play.txt" not in lines:  # the run that the page takes for granted
        lines.insert(0, "charlm train play.txt")
    for line in lines:
        piped, _, command = line.removeprefix("nice ").rpartition("| ")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(poem.encode() if piped else b"")))
        arguments = shlex.split(command)[1:]
        short = ("--max-steps", "12") if "--resume" in arguments else SHORT.get(arguments[0], ())
        result = cli(*arguments, *short)
        assert result.code == 0, f"{line}\n{result.err}"


def test_pages_contain_commands() -> None:
    counts = {page: len(commands(page)) for page in PAGES_WITH_COMMANDS}
    assert counts["docs/texts.md"] >= 18
    assert counts["docs/troubleshooting.md"] >= 20
    assert counts["docs/benchmarks.md"] >= 5


@pytest.mark.usefixtures("_texts")
def test_python_page_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(blocks("docs/python.md", "python"))
    for option, short in (
        ('config="tiny"', 'config="tiny", hidden_size=8, batch_size=4, sequence_length=16, max_steps=2, threads=1'),
        ("max_steps=600", "max_steps=3"),
    ):
        assert code.count(option) == 1
        code = code.replace(option, short)
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["model"], charlm.Model)
    assert "SNOWMAN" in capsys.readouterr().out  # what the example of an error prints


@pytest.mark.usefixtures("_texts")
def test_process_changes_match_python_page() -> None:
    def handlers() -> list[object]:
        return [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), threading.excepthook]

    before, states = handlers(), []
    for number in range(2):
        torch.manual_seed(number)
        charlm.train("play.txt", out="run", overwrite=True, seed=3, hidden_size=8, batch_size=4, max_steps=2, threads=1)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert handlers() == before
    assert torch.get_num_threads() == 1
    assert torch.get_float32_matmul_precision() == "high"
    assert (torch.tensor([1e-310], dtype=torch.float64) * 1).item() == 0


# Outputs


def shape(line: str) -> str:
    """A line of output without its numbers, and without the spaces that align them."""
    line = re.sub(r": the best n-gram model|(?<=thread)s|(?<=round)s", "", line)
    line = re.sub(r"\d[\d,.]*(\+cpu)?", "NUMBER", line.replace("bf16 on", "fp32 on"))
    return re.sub(r"\s+", " ", line).strip()


@pytest.mark.usefixtures("_texts")
def test_corpus_report_matches_docs(cli: Cli) -> None:
    (shown,) = blocks("docs/texts.md", "text")
    result = cli("corpus", "inspect", "tinyshakespeare")
    assert result.code == 0, result.err
    printed, label, _ = result.out.partition("Training time")
    assert label, "the page says how the output ends"

    def outline(output: str) -> list[str]:
        """The lines of a report; of those that quote the text only their labels."""
        lines = [line for line in output.splitlines() if not re.match(r"\s+([\d,]+ (×|distinct)|…)", line)]
        return [line[:20] if line.startswith(("Most frequent", "Rare")) else shape(line) for line in lines]

    assert outline(shown) == outline(printed)


@pytest.mark.usefixtures("bench_in_this_process")
def test_benchmark_report_matches_docs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = blocks("docs/benchmarks.md", "text")
    monkeypatch.setattr("charlm.benchmark.report.has_fast_bf16", lambda device: False)  # as on the machine of the page
    result = cli("bench", *SHORT["bench"])
    assert result.code == 0, result.err

    def outline(report: str) -> list[str]:
        """Its lines, whether native kernels run here or not."""
        lines = [line for line in report.splitlines() if "--kernel torch" not in line]
        return ["kernel:" if line.startswith("kernel: ") else shape(line) for line in lines]

    assert outline(shown) == outline(result.out)


# Links and what else all pages have in common


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page can be linked to, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (LINK.sub(r"\g<text>", title).strip().lower() for title in titles)
    kept = ("".join(c for c in title if c in " -_" or unicodedata.category(c)[0] in "LN") for title in plain)
    return {title.replace(" ", "-") for title in kept}


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_every_link_resolves(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = (ROOT / page).parent / path if path else ROOT / page
    assert linked.exists()
    if anchor:
        assert anchor in anchors(linked)


def test_pages_contain_links() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/README.md", "docs/texts.md"} <= {page for page, _ in LINKS}


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_is_in_the_index(page: str) -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert page == "docs/README.md" or f"]({Path(page).name})" in index


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_starts_with_title_and_purpose(page: str) -> None:
    title, blank, purpose, *_ = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert blank == ""
    assert purpose[0].isalpha()


@pytest.mark.parametrize("page", PAGES)
def test_every_image_has_alt_text(page: str) -> None:
    for text in re.findall(r"!\[([^\]]*)\]", (ROOT / page).read_text(encoding="utf-8")):
        assert len(text) >= 20


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/reliability.md"])
def test_documented_make_targets_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"^ *make ((?:[a-z]+ ?)+)", text, re.MULTILINE) + re.findall(r"`make ([a-z]+)", text)
    assert named
    for target in " ".join(named).split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_no_page_links_to_unrelated_pypi_package() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not re.search(r"pip install [^\n`]*\bcharlm\b|charlm\[", text), page
