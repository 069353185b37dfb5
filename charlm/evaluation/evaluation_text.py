"""Select the text to evaluate: a split of the run's corpus, or another text preprocessed the same way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from charlm import runs
from charlm.checkpoint.contents import SavedModel
from charlm.config import SettingsSource, SourceKind, TrainSettings, resolve
from charlm.corpus import cache, loading, sources
from charlm.corpus.analysis import baselines
from charlm.corpus.analysis.baselines import Baselines
from charlm.corpus.encoded_text import iter_blocks
from charlm.corpus.loading import Corpus
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError, UsageError
from charlm.run_corpus import RunCorpus


@dataclass(frozen=True)
class EvaluationText:
    """A text to evaluate: encoded with the model's vocabulary (``text``), and the ``alphabet`` of its stored ids,
    including unknown characters.
    """

    name: str
    text: Text
    alphabet: list[str]

    @property
    def size_bytes(self) -> int:
        """The size of the text in UTF-8, or of the raw bytes for a byte-level model."""
        if self.text.vocabulary.unit == "byte":
            return len(self.text)
        sizes = np.array([len(character.encode("utf-8", "surrogatepass")) for character in self.alphabet])
        return int(sum(sizes[block].sum() for _, block in iter_blocks(self.text.raw_ids)))


def select_text(
    names: Sequence[str],
    split: str | None,
    encoding: str | None,
    saved: SavedModel,
    run: Path,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> EvaluationText:
    """The named texts, or without names a split of the run's corpus (default: validation)."""
    if names and split:
        raise UsageError(f"--split {split}: only applies to the run's own text.", "Remove --split, or remove TEXT.")
    if encoding is not None and not names:
        raise UsageError(
            f"--encoding {encoding}: only applies to TEXT, not to the run's own text.", "Remove --encoding."
        )
    if encoding is not None and saved.vocabulary.unit == "byte":
        raise UsageError(f"--encoding {encoding}: does not apply to a byte-level model.", "Remove --encoding.")
    if names:
        return load_text(names, saved, encoding, cache_folder, quiet)
    return take_split(load_run_corpus(saved, run, cache_folder, quiet), split or "validation")


def load_run_corpus(
    saved: SavedModel,
    run: Path,
    cache_folder: Path | None = None,
    quiet: bool = True,
    instead: str = "pass another one: RUN TEXT",
) -> Corpus:
    """Load the text that a model was trained on.

    Raises ``UsageError`` if it is missing or has changed; ``instead``: an alternative to restoring it, for the hint.
    """
    recorded = RunCorpus.to_evaluate(runs.run_folder_of(run), saved.corpus, instead)
    return recorded.load([], saved.settings, saved.vocabulary, cache_folder, quiet)


def take_split(corpus: Corpus, name: str) -> EvaluationText:
    """The ``validation`` or ``test`` split. Raises ``UsageError`` if it is empty."""
    stretch: range = getattr(corpus.split, name)
    if not stretch:
        raise UsageError(
            f"--split {name}: this run has no {name} split.",
            "Train with a test split, for example --test-fraction 0.1.",
        )
    return EvaluationText(f"the {name} split of {corpus.name}", corpus.subrange(stretch), corpus.encoded.alphabet)


def load_text(
    names: Sequence[str],
    saved: SavedModel,
    encoding: str | None = None,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> EvaluationText:
    """Load other texts in full, preprocessed like the model's training text, optionally with another encoding.

    Raises what :func:`charlm.corpus.loading.load_encoded` and :func:`charlm.corpus.loading.map_to_vocabulary` raise.
    """
    trained = SettingsSource(str(saved.folder), saved.settings.model_dump(), SourceKind.CHECKPOINT)
    changes = SettingsSource.command_line({} if encoding is None else {"encoding": encoding})
    settings = resolve(TrainSettings, [trained, changes])
    encoded = loading.load_encoded(names, settings, cache_folder, quiet)
    name = sources.corpus_name(names)
    if not len(encoded.ids):
        raise TextError(f"{name}: empty.", "Use a text that is not empty.")
    starts = cache.load_document_starts(encoded, settings)  # a text can be a single document
    return EvaluationText(name, loading.map_to_vocabulary(saved.vocabulary, encoded, starts), encoded.alphabet)


def compute_baselines_for(text: EvaluationText, corpus: Corpus) -> Baselines:
    """Compute the baselines of a text, given a run's training text, on their joint alphabet."""
    alphabet = sorted({*corpus.encoded.alphabet, *text.alphabet})
    common = Vocabulary(alphabet, text.text.vocabulary.unit)
    training = corpus.encoded.ids[: corpus.split.train.stop][-baselines.MAX_TRAIN_CHARACTERS :]
    text_ids = text.text.raw_ids[: baselines.MAX_VALIDATION_CHARACTERS]
    return baselines.compute_baselines(
        common.lookup_ids(corpus.encoded.alphabet)[training], common.lookup_ids(text.alphabet)[text_ids], common
    )
