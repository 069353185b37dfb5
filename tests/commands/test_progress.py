"""Long commands look at the machine's load while they work."""

from pathlib import Path

import pytest

from charlm.model.sharing import ThreadBalancer
from tests.commands.conftest import Cli


@pytest.mark.parametrize("arguments", [("eval",), ("score",), ("inspect",), ("eval", "--quiet")])
def test_commands_that_read_a_text_share_the_machine(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(ThreadBalancer, "balance", lambda self: looks.append(self.threads))
    command, *options = arguments
    result = cli(command, trained, *options, "--threads", "1")
    assert result.code == 0, result.err
    assert looks
    assert set(looks) == {1}
