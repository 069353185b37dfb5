"""charlm from Python: train a model on texts, load one, sample from it, measure it.

>>> import charlm
>>> run = charlm.train("play.txt", out="runs/play", max_steps=30, hidden_size=32, batch_size=4)
>>> model = run.load()
>>> text = model.sample("ROMEO: ", length=20, seed=1)
>>> text == model.sample("ROMEO: ", length=20, seed=1) and len(text) == 20
True
>>> "".join(model.stream("ROMEO: ", length=20, seed=1)) == text
True
>>> model.evaluate("But soft!").characters
9
>>> scores = model.score("But soft!")
>>> len(scores.log_probabilities), bool((scores.ranks >= 1).all())
(9, True)
>>> (character, probability), *others = model.next_characters("ROMEO", count=3)
>>> len(character), 0 < probability < 1, len(others)
(1, True, 2)
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charlm import runs
from charlm.checkpoint import Checkpoint
from charlm.config import SampleSettings, TrainSettings, preset_path, read_toml, resolve
from charlm.corpus.decoding import as_read
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError, UsageError
from charlm.evaluation.passes import Evaluation, evaluate
from charlm.evaluation.scores import Scores, joined, scores
from charlm.generation.streams import Sample, Sampler
from charlm.model.device import choose_device
from charlm.model.stepper import Steppers
from charlm.training import session

Names = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Run:
    """A finished training: its ``folder``, and the exact ``validation`` figure of its best checkpoint."""

    folder: Path
    validation: Evaluation

    def load(self, checkpoint: str = "best", device: str = "auto") -> "Model":
        return load(self.folder, checkpoint, device)


def train(
    corpus: Names = (),
    *,
    out: str | Path | None = None,
    config: str = "default",
    resume: str | None = None,
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Run:
    """Train a model, as ``charlm train`` does with the same names: files, folders, patterns; none: the built-in text.

    ``settings`` are those of :class:`charlm.config.TrainSettings`, by the names that the options have with underscores.
    Not ``quiet``, it shows its progress on standard error. Raises a :class:`charlm.errors.CharlmError` for whatever
    cannot be; a signal ends it with ``TrainingInterruptedError``, after everything was saved.

    What it changes in this process, and leaves so: torch's number of threads where ``threads`` is given, denormal
    numbers are flushed to zero, fp32 products of a GPU may be TF32, and glibc keeps freed memory. While it trains in
    the main thread, it handles SIGINT and SIGTERM itself.
    """
    names = [str(corpus)] if isinstance(corpus, str | Path) else [str(name) for name in corpus]
    layers = [("charlm.train()", settings)]
    if resume is None or config != "default":
        preset = preset_path(config)
        layers = [(str(preset), read_toml(preset)), *layers]
    cache_folder = None if cache_dir is None else Path(cache_dir)
    plan = session.plan(names, layers, None if out is None else Path(out), resume, overwrite, cache_folder, quiet)
    validation = plan.train(quiet)
    return Run(plan.run, validation)


def load(path: str | Path, checkpoint: str = "best", device: str = "auto") -> "Model":
    """The model of a run (``checkpoint``: ``best``, ``last`` or a step's number) or of a checkpoint's folder.

    Raises ``UsageError`` if there is none, ``CheckpointError`` if it is damaged.
    """
    return Model(runs.read(Path(path), checkpoint), device)


class Model:
    """A trained model with its vocabulary.

    Texts are strings, read as the text was that it was trained on: line ends, normal form, documents. Characters that
    it does not know raise ``TextError``, unless it has an unknown symbol. Of a model of bytes, a character is a byte.
    Settings that cannot be raise ``UsageError``.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.network = checkpoint.model(choose_device(device))
        self.steppers = Steppers(self.network)

    @property
    def settings(self) -> TrainSettings:
        return self.checkpoint.settings

    @property
    def vocabulary(self) -> Vocabulary:
        return self.checkpoint.vocabulary

    def sample(self, prompt: str = "", **settings: Any) -> str:
        """What goes on from ``prompt``, without it. ``settings``: those of :class:`charlm.config.SampleSettings`."""
        return self.samples(prompt, **settings)[0].text

    def samples(self, prompt: str = "", **settings: Any) -> list[Sample]:
        """``num_samples`` texts, made side by side, each with its log-probability in nats and what ended it:
        ``length``, ``stop`` or ``line``.
        """
        return self._sampler(prompt, settings).samples()

    def stream(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """What goes on from ``prompt``, a character at a time as it is made.

        Several streams of a model may be read in turns.
        """
        return self._sampler(prompt, settings).stream()

    def next_characters(self, prompt: str = "", count: int = 10, unknown: str = "error") -> list[tuple[str, float]]:
        """The most probable characters after ``prompt``, with their probabilities from 0 to 1, the most probable first.

        ``unknown``: what becomes of characters of the prompt that the model does not know, as in :meth:`sample`.
        """
        return self._sampler(prompt, {"unknown": unknown}).next_characters(count)

    def evaluate(self, text: str, lanes: int = 1) -> Evaluation:
        """The mean loss in nats and bits per character; exact with one lane, faster with several, on a long text.

        Raises ``TextError`` if there is no text, ``UsageError`` if there is no lane.
        """
        if lanes < 1:
            raise UsageError(f"evaluate(): lanes must be at least 1, not {lanes}.")
        return evaluate(self.network, self._text(text), lanes)

    def score(self, text: str) -> Scores:
        """Log-probability in nats, and rank from 1, of each character: each ``(characters,)``.

        Raises ``TextError`` if there is no text.
        """
        return joined(scores(self.network, self._text(text)))

    def _sampler(self, prompt: str, settings: dict[str, Any]) -> Sampler:
        chosen = resolve(SampleSettings, [("sample()", {**settings, "prompt": prompt})])
        return Sampler(self.network, self.vocabulary, chosen, self.settings, self.steppers)

    def _text(self, text: str) -> Text:
        if not text:
            raise TextError("The text is empty.", "Pass a non-empty text.")
        text = as_read(text, self.settings)
        ids = self.vocabulary.encode(text, "replace")
        separator = self.vocabulary.spelled(self.settings.document_separator)
        ends = [match.end() for match in re.finditer(re.escape(separator), self.vocabulary.spelled(text))]
        starts = [0, *(end for end in ends if end < len(ids))] if separator else []
        return Text(self.vocabulary, ids, document_starts=np.array(starts, dtype=np.int64))
