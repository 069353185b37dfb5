"""The text of a run once more: where its record says that it lies, or out of the cache; never another one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from charlm.config import TrainSettings
from charlm.corpus import cache, loading, sources
from charlm.corpus.encoded import Encoded
from charlm.corpus.loading import Corpus
from charlm.corpus.record import CorpusRecord
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError


def load(
    given: Sequence[str],
    record: CorpusRecord,
    settings: TrainSettings,
    vocabulary: Vocabulary | None,
    run: Path,
    hint: str,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> Corpus:
    """The corpus of a run: from the ``given`` names, or found again where none are.

    ``vocabulary``: of its model; none: it is made of the text. Raises ``UsageError``, with that ``hint``, if the text
    is gone, or is not the one of the record.
    """
    encoded = None if given else _kept(record, settings, cache_folder)
    if encoded is None:
        encoded = loading.read(given or _files(record, run, hint), settings, cache_folder, quiet)
    if [file.sha256 for file in encoded.files] != _sums(record):
        shown = ", ".join(given or _paths(record)[:10])
        raise UsageError(f"{run}: this is not the text it was trained on: {shown}.", hint)
    corpus = loading.of(encoded, given or record.inputs, settings, settings.sequence_length, vocabulary)
    return corpus if given else replace(corpus, name=record.name)


def _files(record: CorpusRecord, run: Path, hint: str) -> list[str]:
    """The files that are recorded. Raises ``UsageError`` if some are gone."""
    if not record.inputs:  # the built-in corpus
        return []
    if missing := [path for path in _paths(record) if not sources.is_file(Path(path))]:
        raise UsageError(f"{run}: training text not found: {', '.join(missing[:10])}.", hint)
    return _paths(record)


def _kept(record: CorpusRecord, settings: TrainSettings, cache_folder: Path | None) -> Encoded | None:
    """A text that is not where it was, or came through a pipe, from the cache."""
    if not record.inputs or all(sources.is_file(Path(path)) for path in _paths(record)):
        return None
    return cache.recall(cache_folder or cache.default_folder(), _sums(record), settings)


def _paths(record: CorpusRecord) -> list[str]:
    return [file.path for file in record.files]


def _sums(record: CorpusRecord) -> list[str]:
    return [file.sha256 for file in record.files]
