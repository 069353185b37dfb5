"""The text of a run once more: where its record says that it lies, or out of the cache; never another one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charlm.config import TrainSettings
from charlm.corpus import cache, loading, sources
from charlm.corpus.encoded import Encoded
from charlm.corpus.loading import Corpus
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError

Record = dict[str, Any]  # what Corpus.record() gave


def load(
    given: Sequence[str],
    record: Record,
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
    if [source.sha256 for source in encoded.files] != _sums(record):
        shown = ", ".join(given or _paths(record)[:10])
        raise UsageError(f"{run}: this is not the text it was trained on: {shown}.", hint)
    names = given or record.get("names", _paths(record))
    corpus = loading.of(encoded, names, settings, settings.sequence_length, vocabulary)
    return corpus if given else replace(corpus, name=record.get("name", corpus.name))


def is_built_in(record: Record) -> bool:
    return not record["names"] if "names" in record else record.get("name") == sources.BUILT_IN


def _files(record: Record, run: Path, hint: str) -> list[str]:
    """The files that are recorded. Raises ``UsageError`` if some are gone."""
    if is_built_in(record):
        return []
    if missing := [path for path in _paths(record) if not sources.is_file(Path(path))]:
        raise UsageError(f"{run}: training text not found: {', '.join(missing[:10])}.", hint)
    return _paths(record)


def _kept(record: Record, settings: TrainSettings, cache_folder: Path | None) -> Encoded | None:
    """A text that is not where it was, or came through a pipe, from the cache."""
    if is_built_in(record) or all(sources.is_file(Path(path)) for path in _paths(record)):
        return None
    return cache.recall(cache_folder or cache.default_folder(), _sums(record), settings)


def _paths(record: Record) -> list[str]:
    return [source["path"] for source in record.get("files", [])]


def _sums(record: Record) -> list[str]:
    return [source["sha256"] for source in record.get("files", [])]
