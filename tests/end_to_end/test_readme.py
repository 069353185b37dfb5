"""The commands of the README do what it says, as printed; only made short."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL, Run

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The lines of README's blocks of commands that begin with charlm."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("charlm ")]


def test_every_charlm_command_of_the_readme_runs(charlm: Run, tmp_path: Path, poem: str) -> None:
    (tmp_path / "play.txt").write_text("ROMEO: " + poem, encoding="utf-8")
    lines = commands()
    assert len(lines) >= 8
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train":
            arguments += SMALL if "--resume" not in arguments else ["--max-steps", "12"]
        if arguments[0] == "bench":
            arguments += ["--hidden-size", "8", "--batch-size", "2", "--sequence-length", "4", "--rounds", "1"]
        process = charlm(*arguments)
        assert process.returncode == 0, f"{line}\n{process.stderr}"


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_link_of_the_readme_leads_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
