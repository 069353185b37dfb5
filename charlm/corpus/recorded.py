"""The text of a run once more: where its record says that it is, or from the cache; never a different text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from charlm.config import TrainSettings
from charlm.corpus import cache, loading, sources
from charlm.corpus.encoded import Encoded
from charlm.corpus.loading import Corpus
from charlm.corpus.record import CorpusFile, CorpusRecord, FileRecord
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError


@dataclass(frozen=True)
class RecordedCorpus:
    """What a run knows about its text. ``files``: from its ``corpus.json``, if there is one."""

    run: Path  # the folder
    record: CorpusRecord
    files: CorpusFile | None
    hint_if_missing: str
    hint_if_different: str

    def load(
        self,
        given: Sequence[str],
        settings: TrainSettings,
        vocabulary: Vocabulary | None,
        cache_folder: Path | None = None,
        quiet: bool = True,
    ) -> Corpus:
        """The corpus of the run: from the ``given`` names, or found again if there are none.

        ``vocabulary``: that of the model; ``None``: make it from the text. Raises ``UsageError`` if the text is missing
        or is not the recorded one.
        """
        if self.record.built_in and sources.is_built_in(given):
            given = []
        encoded = None
        if not given and (self.record.built_in or not self._found()):
            # A text that has gone or came through a pipe; the standard library, which an update of Python replaces
            encoded = cache.recall(cache_folder or cache.default_folder(), self.record.files_sha256, settings)
            if encoded is not None and self.files:
                encoded = replace(encoded, files=self.files.absolute_files())
        for names in [given] if given else self._candidates():
            if encoded is None or encoded.files_sha256 != self.record.files_sha256:
                encoded = loading.read(names, settings, cache_folder, quiet)
        if encoded is None:
            raise UsageError(f"{self.run}: training text not found: {self._missing()}.", self.hint_if_missing)
        if encoded.files_sha256 != self.record.files_sha256:
            raise UsageError(self._difference(given, encoded), self.hint_if_different)
        inputs = given or (self.files.inputs if self.files else [file.path for file in encoded.files])
        corpus = loading.of(encoded, inputs, settings, settings.sequence_length, vocabulary)
        if given:
            return corpus
        return replace(corpus, name=self.record.name, names=[] if self.record.built_in else list(inputs))

    def _candidates(self) -> list[list[str]]:
        """Names that may be those of the text now, the likeliest first."""
        ways = [self._found(), self._found(moved=False), *([[]] if self.record.built_in else [])]
        return [names for i, names in enumerate(ways) if names not in ways[:i] and (names or self.record.built_in)]

    def _found(self, moved: bool = True) -> list[str]:
        """The recorded files where they are now, first as seen from the run if that was ``moved``.

        Nothing unless all of them are there.
        """
        found = [self._places(file)[:: 1 if moved else -1][:1] for file in self.files.files] if self.files else []
        return [str(places[0]) for places in found] if all(found) else []

    def _places(self, file: FileRecord) -> list[Path]:
        """Where there is a file now; those of the recorded size, if there are any: others have another text."""
        assert self.files is not None
        if file.path == str(sources.STANDARD_INPUT):
            return []
        places = [place for place in self.files.places(file.path, self.run) if sources.is_file(place)]
        return [place for place in places if place.stat().st_size == file.size_bytes] or places

    def _missing(self) -> str:
        missing = [file.path for file in self.files.files if not self._places(file)] if self.files else []
        return ", ".join(missing[:10]) or f"{self.record.name}, and {self.run / 'corpus.json'} does not list its files"

    def _difference(self, given: Sequence[str], encoded: Encoded) -> str:
        different = f"{self.run}: this is not the text it was trained on"
        if given:
            return f"{different}: {', '.join(given[:10])}."
        if self.record.built_in:
            return f"{different}: the standard library of this Python is a different version."
        pairs = zip(self.files.files if self.files else [], encoded.files, strict=False)
        changed = [now.path for then, now in pairs if then.sha256 != now.sha256]
        return f"{different}: {', '.join(changed[:10])} changed."
