"""charlm from Python: train a model on text, load it, sample from it and evaluate it.

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
>>> trace = model.trace("But soft!")
>>> trace.signal("forget").shape  # (layer, character, unit)
(2, 9, 32)
>>> (character, probability), *others = model.next_characters("ROMEO", count=3)
>>> len(character), 0 < probability < 1, len(others)
(1, True, 2)
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charlm import files, runs
from charlm.checkpoint.contents import SavedModel
from charlm.checkpoint.writing import write_model
from charlm.config import SampleSettings, SettingsSource, TrainSettings, preset_path, resolve
from charlm.config.values import check_path, check_type
from charlm.corpus.strings import encode_string
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import UNKNOWN_PLACEHOLDER, Vocabulary
from charlm.errors import CharlmError, TextError, UsageError
from charlm.evaluation.loss import Evaluation, evaluate
from charlm.evaluation.scores import Scores, concatenate, score_characters
from charlm.generation.sample import Sample
from charlm.generation.sampler import Sampler
from charlm.inspection.traces import Trace, trace_text
from charlm.model.device import choose_device
from charlm.model.stepper import StepperPool
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest

AnyPath = str | os.PathLike[str]  # a Run is also one
CorpusPaths = AnyPath | Iterable[AnyPath]


@dataclass(frozen=True)
class Run:
    """A finished run: its ``folder``, and the exact ``validation`` loss of its best checkpoint."""

    folder: Path
    validation: Evaluation

    def __fspath__(self) -> str:
        """A run can be passed wherever a path is expected."""
        return str(self.folder)

    def load(self, checkpoint: str | int = "best", device: str = "auto") -> "Model":
        return load(self.folder, checkpoint, device)


def train(
    corpus: CorpusPaths = (),
    *,
    out: AnyPath | None = None,
    config: AnyPath = "default",
    resume: AnyPath | None = None,
    overwrite: bool = False,
    cache_dir: AnyPath | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Run:
    """Train a model, as ``charlm train`` does.

    ``corpus``: files, folders, glob patterns or names of downloaded corpora; without any, the source code of Python's
    standard library. ``settings``: those of :class:`charlm.config.TrainSettings`, named like the options of
    ``charlm train``, with underscores. With ``quiet=False``, messages and progress are printed to standard error.
    Messages also go to the logger ``charlm`` (level INFO), warnings to :mod:`warnings` as ``CharlmWarning``.

    Every known problem raises a :class:`charlm.errors.CharlmError`, whose message names command-line options. A signal
    raises ``TrainingInterruptedError`` after a checkpoint is saved.

    Training changes this process, and leaves it changed: torch's number of threads if ``threads`` is given, denormal
    numbers are flushed to zero, fp32 matrix multiplications on a GPU may use TF32, and glibc keeps freed memory. While
    training in the main thread, it handles SIGINT and SIGTERM itself.
    """

    def path(name: str, value: Any) -> Path | None:
        return None if value is None else check_path(value, f"charlm.train(): {name}")

    names = _corpus_names(corpus)
    sources = [SettingsSource("charlm.train()", settings)]
    if resume is None or config != "default":
        preset = preset_path(config if isinstance(config, str) else check_path(config, "charlm.train(): config"))
        sources = [SettingsSource.file(preset), *sources]
    overwrite = check_type(overwrite, bool, "true or false", "charlm.train(): overwrite")
    quiet = check_type(quiet, bool, "true or false", "charlm.train(): quiet")
    resumed = resume if isinstance(resume, str) else path("resume", resume)
    request = TrainingRequest(names, sources, path("out", out), resumed, overwrite, path("cache_dir", cache_dir), quiet)
    plan = plan_training(request)
    validation = plan.train(quiet)
    return Run(plan.run, validation)


def load(path: AnyPath, checkpoint: str | int = "best", device: str = "auto") -> "Model":
    """Load the model of a run folder (``checkpoint``: ``best``, ``latest`` or a step) or of a checkpoint folder.

    Raises ``UsageError`` if there is no such run or step, ``CheckpointError`` if the checkpoint is damaged.
    """
    which = str(check_type(checkpoint, (str, int), "best, latest or a step", "charlm.load(): checkpoint"))
    return Model(runs.load_model(check_path(path, "charlm.load(): path"), which), device)


def _corpus_names(corpus: CorpusPaths) -> list[str]:
    place = "charlm.train(): corpus"
    if isinstance(corpus, str | os.PathLike) or not isinstance(corpus, Iterable):
        return [str(check_path(corpus, place))]
    return [str(check_path(name, place)) for name in corpus]


class Model:
    """A trained model with its vocabulary.

    Texts are strings. They are read as the training text was: the same line endings, Unicode normalization and
    documents. A character outside the vocabulary raises ``TextError``, unless the model has an unknown token. For a
    byte-level model, a character is a byte of the text's UTF-8. Invalid settings raise ``UsageError``.
    """

    def __init__(self, checkpoint: SavedModel, device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.network = checkpoint.build_model(choose_device(check_type(device, str, "the name of a device", "device")))
        self._stepper_pool = StepperPool(self.network)

    @property
    def settings(self) -> TrainSettings:
        return self.checkpoint.settings

    @property
    def vocabulary(self) -> Vocabulary:
        return self.checkpoint.vocabulary

    def save(self, folder: AnyPath) -> None:
        """Save the model without its training state, as a new folder.

        The folder can be given to :func:`load`, to ``charlm sample``, ``eval``, ``score`` and ``info``, and to
        ``init_from``; training cannot be resumed from it. Raises ``UsageError`` if the path already exists,
        ``CharlmError`` if it cannot be written.
        """
        path = check_path(folder, "save(): folder")
        if os.path.lexists(path):
            raise UsageError(f"{path}: already exists.", "Choose the name of a new folder.")
        try:
            files.make_folder(path.parent)
            write_model(path, replace(self.checkpoint, weights=dict(self.network.state_dict())))
        except OSError as error:
            raise CharlmError(f"{path}: cannot be written: {error.strerror or error}.") from None

    def sample(self, prompt: str = "", **settings: Any) -> str:
        """Generate a continuation of ``prompt``. ``settings``: those of :class:`charlm.config.SampleSettings`."""
        return self.sample_many(prompt, **settings)[0].text

    def sample_many(self, prompt: str = "", **settings: Any) -> list[Sample]:
        """Generate ``num_samples`` continuations in parallel.

        Each has its ``text``, its ``data`` (bytes: those of a byte-level model, or the text in UTF-8), its
        ``log_probability_nats`` and its ``finish_reason``: ``length``, ``stop`` or ``newline``.
        """
        return self._sampler(prompt, settings).generate_all()

    def stream(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """Generate a continuation of ``prompt``, one character at a time.

        Several streams of one model can be read alternately.
        """
        return self._sampler(prompt, settings).stream()

    def next_characters(self, prompt: str = "", count: int = 10, unknown: str = "error") -> list[tuple[str, float]]:
        """The ``count`` likeliest characters after ``prompt`` with their probabilities, the likeliest first.

        ``unknown``: how to handle characters of the prompt outside the vocabulary, as in :meth:`sample`.
        """
        count = check_type(count, int, "an integer", "next_characters(): count")
        return self._sampler(prompt, {"unknown": unknown}).next_characters(max(0, count))

    def evaluate(self, text: str, num_segments: int = 1) -> Evaluation:
        """The mean loss on ``text``, in nats and bits per character.

        With one segment it is exact. With several, evaluated in parallel, it is faster on a long text, and approximate.
        Raises ``TextError`` if the text is empty, ``UsageError`` if ``num_segments`` is less than 1.
        """
        num_segments = check_type(num_segments, int, "an integer", "evaluate(): num_segments")
        if num_segments < 1:
            raise UsageError(f"evaluate(): num_segments must be at least 1 (got {num_segments}).")
        return evaluate(self.network, self._encode_text(text), num_segments)

    def score(self, text: str) -> Scores:
        """The log-probability in nats and the rank (1: the likeliest) of each character, each ``(characters,)``.

        Raises ``TextError`` if the text is empty.
        """
        return concatenate(score_characters(self.network, self._encode_text(text)))

    def trace(self, text: str) -> Trace:
        """The gates and states of every unit at each character, and what the model expects next.

        Takes about ``24 × layers × units`` bytes of memory per character. Raises ``TextError`` if the text is empty.
        """
        encoded = self._encode_text(text)
        return trace_text(self.network, encoded, [*self.vocabulary.characters, UNKNOWN_PLACEHOLDER])

    def _sampler(self, prompt: str, settings: dict[str, Any]) -> Sampler:
        chosen = resolve(SampleSettings, [SettingsSource("sample()", {**settings, "prompt": prompt})])
        return Sampler(self.network, self.vocabulary, chosen, self.settings, self._stepper_pool)

    def _encode_text(self, text: str) -> Text:
        text = check_type(text, str, "text", "text")
        if not text:
            raise TextError("The text is empty.", "Pass a non-empty text.")
        return encode_string(text, self.vocabulary, self.settings)
