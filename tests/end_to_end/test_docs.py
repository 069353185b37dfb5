"""The pages in docs/ tell the truth: their commands and examples run, only shortened; their output has the real shape.
The links of all pages lead somewhere.
"""

import gzip
import io
import random
import re
import shlex
import sys
from pathlib import Path

import pytest

import charlm
from tests.commands.conftest import Cli, cli
from tests.conftest import ROOT, SMALL

__all__ = ["cli"]  # fixtures

FOLDERS = ("benchmarks", "checkpoints", "data")  # with a page of their own
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *sorted(path for folder in (".", *FOLDERS) for path in (ROOT / folder).glob("*.md"))]
# Appended to a command of a page: the last value of an option counts
SHORTENED = {
    "train": SMALL,
    "sample": ("--length", "20"),
    "bench": ("--hidden-size", "8", "--batch-size", "2", "--sequence-length", "4", "--rounds", "1", "--threads", "1"),
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of a page's command blocks that call charlm."""
    lines = [line.split("  #")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("charlm ") or "| charlm " in line]


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def pictures(page: Path) -> list[str]:
    """What stands in for the pictures of a page where they cannot be seen."""
    return re.findall(r"!\[([^\]]*)\]", page.read_text(encoding="utf-8"))


def shape(line: str) -> str:
    """A line of output without its numbers and without the runs of spaces that align them."""
    line = re.sub(r"(bf16|fp32) on|  best n-gram model", "", line)
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*(\+cpu)?", "#", line)).strip()


@pytest.fixture
def workplace(tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the texts that the pages use; their commands run in it."""
    poem = "ROMEO: " + poem
    for name in ("play.txt", "part.txt", "held-out.txt", "letters/a.txt", "letters/b.txt", "data/tinyshakespeare.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(poem, encoding="utf-8", newline="")
    (tmp_path / "play.txt.gz").write_bytes(gzip.compress(poem.encode()))
    (tmp_path / "new.txt").write_text(poem + "☃", encoding="utf-8", newline="")
    (tmp_path / "old.txt").write_bytes(("déjà vu " * 500).encode("cp1252"))
    (tmp_path / "picture.png").write_bytes(random.Random(0).randbytes(3000))
    (tmp_path / "names.txt").write_bytes(b"Anna\nBert\nCleo\n" * 100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLM_CACHE_DIR", "cache")
    return tmp_path


@pytest.mark.usefixtures("bench_in_this_process")
@pytest.mark.parametrize("page", [page for page in DOCS if commands(page)], ids=lambda page: page.name)
def test_every_command_of_a_page_runs(
    cli: Cli, workplace: Path, poem: str, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = commands(page)
    if "charlm train play.txt" not in lines:  # the run that the page takes for granted
        lines.insert(0, "charlm train play.txt")
    for line in lines:
        piped, _, command = line.rpartition("| ")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(poem.encode() if piped else b"")))
        arguments = shlex.split(command)[1:]
        shortened = SHORTENED.get(arguments[0], ())
        if "--resume" in arguments:  # its model is fixed
            shortened = ("--max-steps", "12")
        result = cli(*arguments, *shortened)
        assert result.code == 0, f"{line}\n{result.err}"


def test_the_pages_with_commands_are_found() -> None:
    counts = {page.name: len(commands(page)) for page in DOCS}
    assert counts["texts.md"] >= 18
    assert counts["troubleshooting.md"] >= 20
    assert counts["benchmarks.md"] >= 5


def test_every_python_example_runs(workplace: Path) -> None:
    code = "\n".join(blocks(ROOT / "docs" / "python.md", "python"))
    assert code.count("charlm.train(") == 2
    shortened = 'config="tiny", hidden_size=8, batch_size=4, max_steps=2, threads=1'
    code = code.replace('config="tiny"', shortened).replace("max_steps=600", "max_steps=3")
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["model"], charlm.Model)
    assert [sample.finish_reason for sample in names["samples"]] != []  # type: ignore[attr-defined]


def test_the_corpus_report_looks_as_shown(cli: Cli, workplace: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "texts.md", "text")
    result = cli("corpus", "inspect", "tinyshakespeare")
    assert result.code == 0, result.err
    report, _, times = result.out.partition("\nTraining ")
    assert times
    # Of these lines the content depends on the text
    varying = re.compile(r"Frequent|Rare|\s+# ×|\s+# distinct characters never occur")

    def lines(text: str) -> list[str]:
        return [shape(line) for line in text.splitlines() if line and not varying.match(re.sub(r"\d+", "#", line))]

    assert lines(shown) == lines(report)
    labels = [[line[:13].strip() for line in text.splitlines() if line[:1].isalpha()][1:] for text in (shown, report)]
    assert labels[0] == labels[1]


@pytest.mark.usefixtures("bench_in_this_process")
def test_the_benchmark_report_looks_as_shown(cli: Cli, workplace: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "benchmarks.md", "text")
    result = cli("bench", *SHORTENED["bench"])
    assert result.code == 0, result.err
    assert [shape(line) for line in shown.splitlines()] == [shape(line) for line in result.out.splitlines()]


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_index_lists_every_page() -> None:
    listed = set(links(ROOT / "docs" / "README.md"))
    assert {page.name for page in DOCS} - {"README.md"} <= listed


@each_page
def test_a_page_starts_with_its_title_and_what_it_is_for(page: Path) -> None:
    title, blank, first, *_ = page.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert blank == ""
    assert first[0].isalpha()


@pytest.mark.parametrize("page", [page for page in PAGES if pictures(page)], ids=lambda page: page.name)
def test_every_picture_is_described(page: Path) -> None:
    assert all(len(text) >= 20 for text in pictures(page))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/reliability.md"])
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"^ *make ((?:[a-z]+ ?)+)", text, re.MULTILINE) + re.findall(r"`make ([a-z]+)", text)
    assert named
    for target in " ".join(named).split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@each_page
def test_no_page_installs_the_package_of_the_same_name_from_pypi(page: Path) -> None:
    assert not re.search(r"pip install [^\n`]*\bcharlm\b|charlm\[", page.read_text(encoding="utf-8"))
