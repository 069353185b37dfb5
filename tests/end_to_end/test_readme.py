"""The commands of the README do what it says, as printed; only made short."""

import gzip
import io
import random
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import Cli, cli
from tests.conftest import ROOT, SMALL, Run

__all__ = ["cli"]  # a fixture

PAGES = ("README.md", "docs/texts.md")
LINKS = [
    (page, path) for page in PAGES for path in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
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


def test_every_charlm_command_of_the_readme_runs(charlm: Run, tmp_path: Path, poem: str) -> None:
    write_texts(tmp_path, "ROMEO: " + poem)
    lines = commands("README.md")
    assert len(lines) >= 8
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train":
            arguments += SMALL if "--resume" not in arguments else ["--max-steps", "12"]
        if arguments[0] == "bench":
            arguments += ["--hidden-size", "8", "--batch-size", "2", "--sequence-length", "4", "--rounds", "1"]
        process = charlm(*arguments)
        assert process.returncode == 0, f"{line}\n{process.stderr}"


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


@pytest.mark.parametrize(("page", "path"), LINKS)
def test_every_link_of_a_page_leads_somewhere(page: str, path: str) -> None:
    assert ((ROOT / page).parent / path).exists()
