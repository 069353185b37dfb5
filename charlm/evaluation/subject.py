"""Which text a model is tried on: a part of its run's own, or another that is read as that one was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from charlm import runs, texts
from charlm.checkpoint.contents import SavedModel
from charlm.config import COMMAND_LINE, TrainSettings, resolve
from charlm.corpus import documents, floors, loading, sources
from charlm.corpus.encoded import blocks
from charlm.corpus.floors import Floors
from charlm.corpus.loading import Corpus
from charlm.corpus.recorded import RecordedCorpus
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError, UsageError


@dataclass(frozen=True)
class Subject:
    """A text as the model reads it, and, unknown characters and all, as it is: ``alphabet`` is of its stored ids."""

    name: str
    text: Text
    alphabet: list[str]

    @property
    def size_bytes(self) -> int:
        """Of its UTF-8, or of itself where it is of bytes."""
        if self.text.vocabulary.unit == "byte":
            return len(self.text)
        sizes = np.array([len(character.encode("utf-8", "surrogatepass")) for character in self.alphabet])
        return int(sum(sizes[block].sum() for _, block in blocks(self.text.stored)))


def choose(
    names: Sequence[str],
    split: str | None,
    encoding: str | None,
    saved: SavedModel,
    run: Path,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> Subject:
    """The texts that are named, or without any a split (none: validation) of the run's own."""
    if names and split:
        raise UsageError(f"--split {split}: only applies to the run's own text.", "Remove --split, or remove TEXT.")
    if encoding is not None and not names:
        raise UsageError(
            f"--encoding {encoding}: only applies to TEXT, not to the run's own text.", "Remove --encoding."
        )
    if encoding is not None and saved.vocabulary.unit == "byte":
        raise UsageError(f"--encoding {encoding}: does not apply to a byte-level model.", "Remove --encoding.")
    if names:
        return another(names, saved, encoding, cache_folder, quiet)
    return part_of(own_corpus(saved, run, cache_folder, quiet), split or "validation")


def own_corpus(
    saved: SavedModel,
    run: Path,
    cache_folder: Path | None = None,
    quiet: bool = True,
    instead: str = "pass another one: RUN TEXT",
) -> Corpus:
    """The text that a model was trained on.

    Raises ``UsageError`` if it is gone or has changed, which says what to do ``instead`` of restoring it.
    """
    hint = f"Restore the original text (charlm info RUN --json lists its files), or {instead}."
    folder = runs.folder_of(run)
    recorded = RecordedCorpus(folder, saved.corpus, texts.find(folder, saved.corpus), hint, hint)
    return recorded.load([], saved.settings, saved.vocabulary, cache_folder, quiet)


def part_of(corpus: Corpus, part: str) -> Subject:
    """``validation`` or ``test``. Raises ``UsageError`` if that was left empty."""
    stretch: range = getattr(corpus.split, part)
    if not stretch:
        raise UsageError(
            f"--split {part}: this run has no {part} split.",
            "Train with a test split, for example --test-fraction 0.1.",
        )
    return Subject(f"the {part} split of {corpus.name}", corpus.part(stretch), corpus.encoded.alphabet)


def another(
    names: Sequence[str],
    saved: SavedModel,
    encoding: str | None = None,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> Subject:
    """The whole of other texts, read as the model's own was, perhaps from another encoding.

    Raises what :func:`charlm.corpus.loading.read` and :func:`charlm.corpus.loading.read_by` raise.
    """
    changes = (COMMAND_LINE, {} if encoding is None else {"encoding": encoding})
    settings = resolve(TrainSettings, [(str(saved.folder), saved.settings.model_dump()), changes])
    encoded = loading.read(names, settings, cache_folder, quiet)
    name = sources.name_of(names)
    if not len(encoded.ids):
        raise TextError(f"{name}: empty.", "Use a text that is not empty.")
    starts = documents.starts(encoded, settings, required=False)
    return Subject(name, loading.read_by(saved.vocabulary, encoded, starts), encoded.alphabet)


def floors_of(subject: Subject, corpus: Corpus) -> Floors:
    """What n-grams and xz reach on a text after a run's training text, counted on the one alphabet of both."""
    alphabet = sorted({*corpus.encoded.alphabet, *subject.alphabet})
    common = Vocabulary(alphabet, subject.text.vocabulary.unit)
    training = corpus.encoded.ids[: corpus.split.train.stop][-floors.TRAIN_AT_MOST :]
    theirs = subject.text.stored[: floors.VALIDATION_AT_MOST]
    return floors.floors(
        common.ids_of(corpus.encoded.alphabet)[training], common.ids_of(subject.alphabet)[theirs], common
    )
