"""Any text at all makes the whole way: file, checkpoint, sample."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm import runs
from charlm.config import SampleSettings, SettingsSource
from charlm.errors import TextError
from charlm.generation.sampler import Sampler
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest

SPECIAL = st.sampled_from(
    ["\0", "\u202e", "e\u0301", "\r\n", "\ufeff", "👩\u200d🚀", "\U0010ffff", "\u2028", "\x85", "नि"]
)
TEXTS = st.lists(st.one_of(SPECIAL, st.characters(exclude_categories=["Cs"])), min_size=2).map("".join)

SOURCES = [
    SettingsSource(
        "test",
        {
            "hidden_size": 4,
            "embedding_size": 2,
            "num_layers": 1,
            "batch_size": 2,
            "sequence_length": 4,
            "max_steps": 1,
            "validation_fraction": 0.3,
            "sample_length": 3,
            "threads": 1,
        },
    )
]


@settings(max_examples=40)
@given(TEXTS)
def test_any_unicode_survives_training_and_sampling(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_bytes(text.encode())
        read = text.removeprefix("\ufeff")
        try:
            plan = plan_training(TrainingRequest([str(path)], SOURCES, out=Path(folder) / "run"))
        except TextError:
            assert len(read) < 8 or len(set(read)) < 2
            return
        assert plan.corpus.vocabulary.decode(plan.corpus.text[:]) == read
        plan.train(quiet=True)
        saved = runs.load_model(Path(folder) / "run", "latest")
        assert saved.vocabulary.characters == sorted(set(read))
        model = saved.build_model(torch.device("cpu"))
        sampled = "".join(Sampler(model, saved.vocabulary, SampleSettings(prompt=read[:5], length=10, seed=1)).stream())
        assert len(sampled) == 10
        assert set(sampled) <= set(read)


@pytest.mark.parametrize("before", ["", "abc\n", "é" * 100 + "\n\n"])
def test_encoded_surrogates_are_rejected_with_offset(before: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(before.encode() + "\ud800".encode("utf-8", "surrogatepass") + b"more" * 100)
    with pytest.raises(TextError, match=rf"offset {len(before.encode())} \(line {before.count(chr(10)) + 1}\)"):
        plan_training(TrainingRequest([str(path)], SOURCES, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
