"""The other pages of documentation: their commands run, and the links of all pages lead somewhere."""

import gzip
import io
import random
import re
import shlex
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.commands.conftest import Cli, cli
from tests.conftest import ROOT, SMALL

__all__ = ["cli"]  # a fixture

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


def commands(page: str) -> list[str]:
    """The lines of a page's blocks of commands in which charlm is called."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("charlm ") or "| charlm " in line]


def write_texts(folder: Path, text: str) -> None:
    """The texts that the pages speak of."""
    (folder / "play.txt").write_text(text, encoding="utf-8")
    (folder / "play.txt.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "new.txt").write_text(text + "☃", encoding="utf-8")
    (folder / "old.txt").write_text("déjà vu " * 500, encoding="cp1252")
    (folder / "picture.png").write_bytes(random.Random(0).randbytes(3000))
    (folder / "names.txt").write_text("Anna\nBert\nCleo\n" * 100)
    for name in ("letters/a.txt", "letters/b.txt", "more/c.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def test_every_charlm_command_of_the_page_on_texts_runs(
    cli: Cli, tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path, poem)
    monkeypatch.setenv("CHARLM_CACHE_DIR", "cache")
    lines = commands("docs/texts.md")
    assert len(lines) >= 15
    for line in lines:
        piped, _, command = line.rpartition("| ")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(poem.encode() if piped else b"")))
        arguments = shlex.split(command)[1:]
        result = cli(*arguments, *(SMALL if arguments[0] == "train" else ()))
        assert result.code == 0, f"{line}\n{result.err}"


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page can be linked to, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (LINK.sub(r"\g<text>", title).strip().lower() for title in titles)
    kept = ("".join(c for c in title if c in " -_" or unicodedata.category(c)[0] in "LN") for title in plain)
    return {title.replace(" ", "-") for title in kept}


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_every_link_of_a_page_leads_somewhere(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = (ROOT / page).parent / path if path else ROOT / page
    assert linked.exists()
    if anchor:
        assert anchor in anchors(linked)


def test_the_pages_have_links_to_check() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/README.md", "docs/texts.md"} <= {page for page, _ in LINKS}


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_of_the_documentation_is_in_its_index(page: str) -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert page == "docs/README.md" or f"]({Path(page).name})" in index


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_of_a_page_is_described(page: str) -> None:
    for text in re.findall(r"!\[([^\]]*)\]", (ROOT / page).read_text(encoding="utf-8")):
        assert len(text) >= 20


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/reliability.md"])
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"^ *make ((?:[a-z]+ ?)+)", text, re.MULTILINE) + re.findall(r"`make ([a-z]+)", text)
    assert named
    for target in " ".join(named).split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_no_page_sends_people_to_the_package_of_that_name_on_pypi() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not re.search(r"pip install [^\n`]*\bcharlm\b|charlm\[", text), page
