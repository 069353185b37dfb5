"""The text of a run once more: where its record says that it lies, or out of the cache; never another one."""

from collections.abc import Sequence
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
    vocabulary: Vocabulary,
    run: Path,
    hint: str,
    cache_folder: Path | None = None,
    quiet: bool = True,
) -> Corpus:
    """The corpus of a run, as its model reads it: from the ``given`` names, or found again where none are.

    Raises ``UsageError``, with that ``hint``, if the text is gone, or is not the one of the record.
    """
    encoded = _kept(record, settings, cache_folder) if not given else None
    recorded: Sequence[str] = record.get("names", [])
    used = recorded if encoded is not None else names(given, record, run, hint)
    encoded = encoded or loading.read(used, settings, cache_folder, quiet)
    if [source.sha256 for source in encoded.files] != _sums(record):
        shown = ", ".join(map(str, used)) or sources.BUILT_IN
        raise UsageError(f"{run}: the text is not the one it was trained on: {shown}.", hint)
    return loading.of(encoded, used, settings, settings.sequence_length, vocabulary)


def names(given: Sequence[str], record: Record, run: Path, hint: str) -> Sequence[str]:
    """The texts that were given, else those that are recorded. Raises ``UsageError`` if they are gone."""
    files = [source["path"] for source in record.get("files", [])]
    if given or record.get("name") == sources.BUILT_IN:
        return given
    if missing := [name for name in files if not sources.is_file(Path(name))]:
        raise UsageError(f"{run}: its text is not where it was: {', '.join(missing)}.", hint)
    return files


def _kept(record: Record, settings: TrainSettings, cache_folder: Path | None) -> Encoded | None:
    """A text that is not where it was, or came through a pipe, from the cache."""
    files = record.get("files", [])
    if not files or record.get("name") == sources.BUILT_IN or all(sources.is_file(Path(f["path"])) for f in files):
        return None
    return cache.recall(cache_folder or cache.default_folder(), _sums(record), settings)


def _sums(record: Record) -> list[str]:
    return [source["sha256"] for source in record.get("files", [])]
