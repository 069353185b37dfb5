"""The corpus of a run: its record, and how to find the same text again.

Every checkpoint contains a short record, whose size does not depend on the number of files. The ``corpus.json`` of the
run adds the list of files and their locations, once.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from charlm.checkpoint.loading import describe_first_problem, read_json
from charlm.checkpoint.writing import encode_json
from charlm.config import TrainSettings
from charlm.corpus import cache, loading, sources
from charlm.corpus.encoded_text import EncodedText
from charlm.corpus.loading import Corpus
from charlm.corpus.record import CorpusRecord, FileRecord, Name
from charlm.corpus.streams import STANDARD_INPUT
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CheckpointError, TextError, UsageError, quote

NAME = "corpus.json"
MAX_BYTES = 1 << 28  # more than a million files


class CorpusFile(CorpusRecord):
    """The content of ``corpus.json``: the record, and the location of the text."""

    inputs: list[Name]  # files, folders and patterns as given; none: the built-in corpus
    working_folder: Name  # absolute: paths of files that are not are relative to it
    run_folder: Name  # absolute
    files: list[FileRecord]

    @classmethod
    def describe(cls, corpus: Corpus, run: Path) -> "CorpusFile":
        return cls(
            **vars(corpus.to_record()),
            inputs=corpus.names,
            working_folder=str(Path.cwd()),
            run_folder=str(run.absolute()),
            files=corpus.encoded.files,
        )

    @classmethod
    def read(cls, run: Path) -> "CorpusFile":
        """Raises ``CheckpointError`` if it is missing or cannot be read."""
        path = run / NAME
        try:
            return cls(**read_json(path, MAX_BYTES))
        except (CheckpointError, ValidationError) as error:
            reason = describe_first_problem(error) if isinstance(error, ValidationError) else "missing or damaged"
            raise CheckpointError(
                f"{path}: cannot tell which text this run was trained on: {reason}.",
                f"Pass the text again: charlm train TEXT --resume {quote(run)}",
            ) from None

    @classmethod
    def find(cls, run: Path, record: CorpusRecord) -> "CorpusFile | None":
        """The ``corpus.json`` of a run, or ``None`` if it is missing, invalid or describes another corpus."""
        try:
            found = cls.read(run)
        except CheckpointError:
            return None
        return found if found.files_sha256 == record.files_sha256 else None

    def encode(self) -> bytes:
        """The content as bytes. Raises ``TextError`` if it is too large to be read again."""
        data = encode_json(self.model_dump())
        if len(data) > MAX_BYTES:
            raise TextError(
                f"{self.name}: the list of {self.num_files:,} files takes {len(data):,} bytes, more than {NAME} may.",
                "Join files, with a line between them that --document-separator names.",
            )
        return data

    def absolute_files(self) -> list[FileRecord]:
        """The files with absolute paths, except standard input."""
        return [
            file if file.path == "-" else file.model_copy(update={"path": str(Path(self.working_folder, file.path))})
            for file in self.files
        ]

    def candidate_paths(self, path: str, run: Path) -> list[Path]:
        """Candidate paths of a file: relative to the run, which may have been moved, then the original path."""
        absolute = Path(self.working_folder, path)
        try:
            from_run = os.path.relpath(absolute, self.run_folder)
        except ValueError:  # on another drive
            return [absolute]
        return list(dict.fromkeys([Path(os.path.normpath(run.absolute() / from_run)), absolute]))


@dataclass(frozen=True)
class RunCorpus:
    """The recorded corpus of a run. ``file``: its ``corpus.json``, if it describes the same text."""

    run: Path  # the folder
    record: CorpusRecord
    file: CorpusFile | None
    hint_if_missing: str
    hint_if_different: str

    @classmethod
    def to_resume(cls, path: Path, run: Path, record: CorpusRecord) -> "RunCorpus":
        """The corpus of a resumed run; ``path``: the run or checkpoint as named by the user."""
        finetune = f"charlm train TEXT --init-from {quote(path)} --out NEW_RUN"
        another = f"To train the model on another text, or on more: {finetune}"
        return cls(run, record, CorpusFile.find(run, record), _missing_text_hint(path), another)

    @classmethod
    def to_restart(cls, run: Path) -> "RunCorpus":
        """The corpus of a run without a checkpoint. Raises ``CheckpointError`` if its record is unreadable."""
        file = CorpusFile.read(run)
        return cls(run, file, file, _missing_text_hint(run), _missing_text_hint(run))

    @classmethod
    def to_evaluate(cls, run: Path, record: CorpusRecord, instead: str = "pass another one: RUN TEXT") -> "RunCorpus":
        """The corpus of a run whose model is evaluated.

        ``instead``: an alternative to restoring a missing or changed text, for the hint.
        """
        hint = f"Restore the original text (charlm info RUN --json lists its files), or {instead}."
        return cls(run, record, CorpusFile.find(run, record), hint, hint)

    def load(
        self,
        given: Sequence[str],
        settings: TrainSettings,
        vocabulary: Vocabulary | None,
        cache_folder: Path | None = None,
        quiet: bool = True,
    ) -> Corpus:
        """Load the run's corpus from the ``given`` names, or from its recorded location if there are none.

        ``vocabulary``: that of the model; ``None``: make it from the text. Raises ``UsageError`` if the text is missing
        or is not the recorded one.
        """
        if self.record.built_in and sources.is_built_in(given):
            given = []
        encoded = None
        if not given and (self.record.built_in or not self._locate()):
            # Missing texts and texts from a pipe; and the standard library, which Python updates replace
            encoded = cache.find_by_hash(cache_folder or cache.default_folder(), self.record.files_sha256, settings)
            if encoded is not None and self.file:
                encoded = replace(encoded, files=self.file.absolute_files())
        for names in [given] if given else self._candidates():
            if encoded is None or encoded.files_sha256 != self.record.files_sha256:
                encoded = loading.load_encoded(names, settings, cache_folder, quiet)
        if encoded is None:
            raise UsageError(f"{self.run}: training text not found: {self._missing()}.", self.hint_if_missing)
        if encoded.files_sha256 != self.record.files_sha256:
            raise UsageError(self._difference(given, encoded), self.hint_if_different)
        inputs = given or (self.file.inputs if self.file else [file.path for file in encoded.files])
        corpus = loading.make_corpus(encoded, inputs, settings, settings.sequence_length, vocabulary)
        if given:
            return corpus
        return replace(corpus, name=self.record.name, names=[] if self.record.built_in else list(inputs))

    def _candidates(self) -> list[list[str]]:
        """Possible names of the text, the likeliest first."""
        ways = [self._locate(), self._locate(moved=False), *([[]] if self.record.built_in else [])]
        return [names for i, names in enumerate(ways) if names not in ways[:i] and (names or self.record.built_in)]

    def _locate(self, moved: bool = True) -> list[str]:
        """The current paths of the recorded files, relative to the run first if it was ``moved``.

        Empty unless all of them exist.
        """
        found = [self._places(file)[:: 1 if moved else -1][:1] for file in self.file.files] if self.file else []
        return [str(places[0]) for places in found] if all(found) else []

    def _places(self, file: FileRecord) -> list[Path]:
        """Existing candidates of a file; only those of the recorded size, if there are any."""
        assert self.file is not None
        if file.path == str(STANDARD_INPUT):
            return []
        places = [place for place in self.file.candidate_paths(file.path, self.run) if sources.is_regular_file(place)]
        return [place for place in places if place.stat().st_size == file.size_bytes] or places

    def _missing(self) -> str:
        missing = [file.path for file in self.file.files if not self._places(file)] if self.file else []
        return ", ".join(missing[:10]) or f"{self.record.name}, and {self.run / NAME} does not list its files"

    def _difference(self, given: Sequence[str], encoded: EncodedText) -> str:
        different = f"{self.run}: this is not the text it was trained on"
        if given:
            return f"{different}: {', '.join(given[:10])}."
        if self.record.built_in:
            return f"{different}: the standard library of this Python is a different version."
        pairs = zip(self.file.files if self.file else [], encoded.files, strict=False)
        changed = [now.path for then, now in pairs if then.sha256 != now.sha256]
        return f"{different}: {', '.join(changed[:10])} changed."


def _missing_text_hint(path: Path) -> str:
    return (
        f"Pass the original text ({NAME} lists its files): charlm train TEXT --resume {quote(path)}; "
        "or start a new run with --out checkpoints/NAME."
    )
