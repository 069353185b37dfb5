"""The weights of a checkpoint, read into plain modules of PyTorch by the example of docs/python.md."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import charlm
from tests.conftest import ROOT
from tests.test_api import SMALL


def example() -> str:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## Use the weights elsewhere.*?```python\n(.*?)```", page, re.DOTALL)
    return str(block)


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 1}, {"num_layers": 3}, {"tie_weights": True, "embedding_size": 16}, {"min_count": 2}],
    ids=str,
)
def test_exported_weights_give_same_logits(
    tmp_path: Path, poem: str, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "play.txt"
    text.write_text("But soft!\n" * 2 + "☃" + poem, encoding="utf-8")  # with min_count 2, only ☃ is unknown
    run = charlm.train(text, out=tmp_path / "run", **{**SMALL, "learning_rate": 0.1, "warmup_steps": 0, **changes})
    model = run.load(device="cpu")
    names: dict[str, Any] = {"model": model}
    with torch.inference_mode():
        exec(example(), names)
        expected, _ = model.network(names["ids"][:, None], model.network.zero_state(1))
    assert names["logits"].shape == expected[:, 0].shape
    torch.testing.assert_close(names["logits"], expected[:, 0], rtol=1e-5, atol=1e-6)
    ((likeliest, _),) = model.next_characters("But s", count=1)
    assert capsys.readouterr().out == f"{likeliest}\n"


def test_example_is_short_and_uses_plain_modules() -> None:
    lines = [line for line in example().splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 20
    assert "charlm" not in example()
