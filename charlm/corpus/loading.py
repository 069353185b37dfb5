"""Load a corpus: an encoded and split text, with the record that a resumed run is checked against."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from charlm.config import CorpusSettings
from charlm.console import open_bar
from charlm.corpus import cache, shuffling, sources
from charlm.corpus.encoded_text import EncodedText, iter_blocks
from charlm.corpus.record import CorpusRecord, SplitRecord
from charlm.corpus.split import Split, is_long_enough, make_split, min_length
from charlm.corpus.text import Positions, Text
from charlm.corpus.vocabulary import Vocabulary, format_character, unknown_characters_error
from charlm.errors import TextError, pluralize


@dataclass(frozen=True)
class Corpus:
    """``names``: as given, empty for the built-in corpus; ``text``: the whole text; ``encoded``: its stored form."""

    name: str
    names: list[str]
    encoded: EncodedText
    text: Text
    split: Split
    shuffle_seed: int | None = None  # of the document order; None: as in the files

    @property
    def vocabulary(self) -> Vocabulary:
        return self.text.vocabulary

    def subrange(self, positions: range) -> Text:
        return self.text.subrange(positions)

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Corpus":
        """The corpus with another vocabulary."""
        return replace(self, text=map_to_vocabulary(vocabulary, self.encoded, self.text.document_starts))

    def count_unknown(self) -> tuple[int, int]:
        """Count the characters that map to the unknown token, and the distinct ones among them."""
        ids = self.vocabulary.lookup_ids(self.encoded.alphabet)
        hidden = self.encoded.counts[ids == self.vocabulary.unknown_id]
        return int(hidden.sum()), len(hidden)

    def count_unseen_in_training(self) -> int:
        """Count the distinct characters that do not occur in the training split."""
        outside = np.zeros(len(self.encoded.alphabet), dtype=np.int64)
        for _, block in iter_blocks(self.encoded.ids[self.split.train.stop :]):
            outside += np.bincount(block, minlength=len(outside))
        return int(np.count_nonzero(outside == self.encoded.counts))

    def to_record(self) -> CorpusRecord:
        return CorpusRecord(
            name=self.name,
            built_in=not self.names,
            unit=self.vocabulary.unit,
            length=len(self.text),
            alphabet_size=len(self.encoded.alphabet),
            num_documents=len(self.text.document_starts),
            num_files=len(self.encoded.files),
            files_sha256=self.encoded.files_sha256,
            shuffle_seed=self.shuffle_seed,
            split=SplitRecord(**self.split.to_ranges()),
        )


def load_corpus(
    names: Sequence[str],
    settings: CorpusSettings,
    sequence_length: int,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> Corpus:
    """Find, encode and split a corpus with at least one training window of ``sequence_length``.

    Raises ``UsageError``, ``TextError`` or ``CharlmError`` where a file cannot be read, the cache cannot be written, or
    the text is too little to learn from.
    """
    return make_corpus(load_encoded(names, settings, cache_folder, quiet), names, settings, sequence_length)


def load_encoded(
    names: Sequence[str], settings: CorpusSettings, cache_folder: Path | None = None, quiet: bool = True
) -> EncodedText:
    """Encode the named files, or load them from the cache (default: the user's cache folder). Shows a progress bar."""
    paths = sources.resolve_paths(names, settings)
    size_bytes = sum(path.stat().st_size for path in paths) if all(map(sources.is_regular_file, paths)) else None
    bar = open_bar(quiet, total=size_bytes, desc="reading", unit="B", unit_scale=True, leave=False, delay=1)
    with bar:
        return cache.load_or_encode(cache_folder or cache.default_folder(), paths, settings, bar.update)


def make_corpus(
    encoded: EncodedText,
    names: Sequence[str],
    settings: CorpusSettings,
    sequence_length: int,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """Make a corpus of an encoded text. Raises ``TextError`` if there is too little text to train on.

    ``vocabulary``: that of an existing model; by default it is built from the text.
    """
    files, characters = encoded.files, len(encoded.ids)
    source = files[0].path if len(files) == 1 else f"these {len(files)} files"
    if not characters:
        raise TextError(f"{source}: empty.", "Use a text that is not empty.")
    split = make_split(characters, settings)
    if not is_long_enough(split, sequence_length):
        needed = min_length(settings, sequence_length)
        raise TextError(
            f"{source}: {pluralize(characters, settings.unit)}, but a training window of {sequence_length:,} and a "
            f"validation split need at least {needed:,}.",
            "Use more text" + " or a smaller --sequence-length" * (sequence_length > 1) + ".",
        )
    if len(encoded.alphabet) == 1:
        raise TextError(
            f"{source}: contains only the {settings.unit} "
            f"{format_character(encoded.alphabet[0], settings.unit)}, repeated.",
            "Use a text with at least two distinct characters.",
        )
    if vocabulary is None and settings.unit == "byte":
        vocabulary = Vocabulary.for_bytes()
    elif vocabulary is None:
        vocabulary = Vocabulary.from_counts(encoded.alphabet, encoded.counts.tolist(), settings.min_count)
    if len(vocabulary) == 1:
        raise TextError(f"--min-count {settings.min_count}: no character occurs that often.", "Use a smaller value.")
    starts = cache.load_document_starts(encoded, settings)
    if settings.document_separator and len(starts) == 1:
        raise TextError(
            f"--document-separator {settings.document_separator!r}: there is no document boundary in this text.",
            "Check how the documents are separated.",
        )
    if settings.shuffle_documents:
        encoded, starts = cache.load_shuffled(encoded, starts, settings)
    text = map_to_vocabulary(vocabulary, encoded, starts)
    recorded_names = [] if sources.is_built_in(names) else list(names)
    shuffle_seed = shuffling.SEED if settings.shuffle_documents else None
    return Corpus(sources.corpus_name(names), recorded_names, encoded, text, split, shuffle_seed)


def map_to_vocabulary(vocabulary: Vocabulary, encoded: EncodedText, document_starts: Positions) -> Text:
    """Map an encoded text to a model's vocabulary. Raises ``TextError`` listing the characters outside it."""
    model_ids = vocabulary.lookup_ids(encoded.alphabet)
    if unknown := [encoded.alphabet[i] for i in np.flatnonzero(model_ids < 0)]:
        raise unknown_characters_error(sorted(unknown))
    return Text(vocabulary, encoded.ids, model_ids, document_starts)
