"""Shared fixtures: determinism, small texts, and a runner for the command line."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one thread a worker
os.environ["CHARLM_CACHE_DIR"] = tempfile.mkdtemp(prefix="charlm-test-cache-")  # not the user's cache

import numpy as np
import pytest
import torch
from hypothesis import settings

from charlm.corpus.record import CorpusRecord, FileRecord, SplitRecord
from charlm.corpus.text import Ids, Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.model.device import cpu_supports_bf16
from charlm.model.kernels.library import PATH, VARIABLE
from charlm.run_corpus import CorpusFile

settings.register_profile("charlm", derandomize=True, deadline=None, database=None, max_examples=100)
settings.load_profile("charlm")

ROOT = Path(__file__).parent.parent
if not (os.environ.get(VARIABLE) or PATH.is_file()):  # never installed; without a compiler, tests of it are skipped
    subprocess.run([sys.executable, str(ROOT / "native" / "build.py")], check=False)
needs_bf16 = pytest.mark.skipif(not cpu_supports_bf16(), reason="PyTorch has no bf16 LSTM for this processor")

# A model and a length small enough for any test, as options of `charlm train`
SMALL = (
    *("--hidden-size", "16", "--embedding-size", "8", "--batch-size", "4"),
    *("--sequence-length", "16", "--max-steps", "8", "--sample-length", "20", "--log-every", "2", "--threads", "1"),
)


def make_text(ids: Sequence[int] | Ids, vocabulary_size: int, starts: Sequence[int] = ()) -> Text:
    """A text of these ids, in which documents begin at ``starts``."""
    vocabulary = Vocabulary([chr(0x100 + id_) for id_ in range(vocabulary_size)])
    smallest = np.min_scalar_type(vocabulary_size - 1)
    return Text(vocabulary, np.asarray(ids, dtype=smallest), document_starts=np.array(starts, dtype=np.int64))


def corpus_record(name: str = "poem") -> CorpusRecord:
    """The record of a fictitious corpus of one file."""
    return CorpusRecord(
        name=name,
        built_in=False,
        unit="character",
        length=100,
        alphabet_size=4,
        num_documents=0,
        num_files=1,
        files_sha256="0" * 64,
        shuffle_seed=None,
        split=SplitRecord(train=[0, 90], validation=[90, 100], test=[100, 100]),
    )


def corpus_file(name: str = "poem") -> CorpusFile:
    """The same with its one file."""
    file = FileRecord(path=f"{name}.txt", size_bytes=100, sha256="0" * 64, length=100)
    return CorpusFile(
        **vars(corpus_record(name)),
        inputs=[file.path],
        working_folder="/home/nobody",
        run_folder=f"/home/nobody/checkpoints/{name}",
        files=[file],
    )


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)  # training flushes denormals process-wide, but Hypothesis needs them


@pytest.fixture(scope="session")
def poem() -> str:
    """About 4,000 structured characters, with non-ASCII letters and newlines."""
    lines = [f"Die Wölfe zählen {n} Schafe und {n * n} Träume, été après été.\n" for n in range(70)]
    return "".join(lines)


@pytest.fixture
def poem_file(tmp_path: Path, poem: str) -> Path:
    path = tmp_path / "poem.txt"
    path.write_text(poem, encoding="utf-8", newline="")
    return path


@pytest.fixture
def charlm(tmp_path: Path) -> Run:
    """Runs ``charlm`` in a separate process in ``tmp_path`` and returns the result."""

    def run(
        *arguments: object, env: dict[str, str] | None = None, **options: object
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "charlm", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            **options,  # type: ignore[call-overload]
        )

    return run
