"""The text of a run: what the run recorded about it, and where that text is now; never a different text.

Every checkpoint holds a short record, whose size does not depend on the number of files. The ``corpus.json`` of the run
adds the list of files, once, and where they were.
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
    """The content of ``corpus.json``: the record, and where the text was."""

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
        """The file of a run if it is there, valid and about that very corpus."""
        try:
            found = cls.read(run)
        except CheckpointError:
            return None
        return found if found.files_sha256 == record.files_sha256 else None

    def encode(self) -> bytes:
        """The file's bytes. Raises ``TextError`` if they would be too many to be read again."""
        data = encode_json(self.model_dump())
        if len(data) > MAX_BYTES:
            raise TextError(
                f"{self.name}: the list of {self.num_files:,} files takes {len(data):,} bytes, more than {NAME} may.",
                "Join files, with a line between them that --document-separator names.",
            )
        return data

    def absolute_files(self) -> list[FileRecord]:
        """The files, named so that it does not matter from where: but for standard input."""
        return [
            file if file.path == "-" else file.model_copy(update={"path": str(Path(self.working_folder, file.path))})
            for file in self.files
        ]

    def candidate_paths(self, path: str, run: Path) -> list[Path]:
        """Where a file may be now: where it was as seen from the run, which may have been moved, then where it was."""
        absolute = Path(self.working_folder, path)
        try:
            from_run = os.path.relpath(absolute, self.run_folder)
        except ValueError:  # on another drive
            return [absolute]
        return list(dict.fromkeys([Path(os.path.normpath(run.absolute() / from_run)), absolute]))


@dataclass(frozen=True)
class RunCorpus:
    """What a run knows about its text. ``file``: its ``corpus.json``, if there is one about that text."""

    run: Path  # the folder
    record: CorpusRecord
    file: CorpusFile | None
    hint_if_missing: str
    hint_if_different: str

    @classmethod
    def to_resume(cls, path: Path, run: Path, record: CorpusRecord) -> "RunCorpus":
        """The text of a run that is resumed; ``path``: the run or checkpoint as it was named."""
        finetune = f"charlm train TEXT --init-from {quote(path)} --out NEW_RUN"
        another = f"To train the model on another text, or on more: {finetune}"
        return cls(run, record, CorpusFile.find(run, record), _missing_text_hint(path), another)

    @classmethod
    def to_restart(cls, run: Path) -> "RunCorpus":
        """The text of a run without a checkpoint. Raises ``CheckpointError`` if it cannot be told which it was."""
        file = CorpusFile.read(run)
        return cls(run, file, file, _missing_text_hint(run), _missing_text_hint(run))

    @classmethod
    def to_evaluate(cls, run: Path, record: CorpusRecord, instead: str = "pass another one: RUN TEXT") -> "RunCorpus":
        """The text of a run whose model is evaluated on it, or compared with it.

        ``instead``: what can be done in place of restoring a text that is gone or has changed.
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
        """The corpus of the run: from the ``given`` names, or found again if there are none.

        ``vocabulary``: that of the model; ``None``: make it from the text. Raises ``UsageError`` if the text is missing
        or is not the recorded one.
        """
        if self.record.built_in and sources.is_built_in(given):
            given = []
        encoded = None
        if not given and (self.record.built_in or not self._locate()):
            # A text that has gone or came through a pipe; the standard library, which an update of Python replaces
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
        """Names that may be those of the text now, the likeliest first."""
        ways = [self._locate(), self._locate(moved=False), *([[]] if self.record.built_in else [])]
        return [names for i, names in enumerate(ways) if names not in ways[:i] and (names or self.record.built_in)]

    def _locate(self, moved: bool = True) -> list[str]:
        """The recorded files where they are now, first as seen from the run if that was ``moved``.

        Nothing unless all of them are there.
        """
        found = [self._places(file)[:: 1 if moved else -1][:1] for file in self.file.files] if self.file else []
        return [str(places[0]) for places in found] if all(found) else []

    def _places(self, file: FileRecord) -> list[Path]:
        """Where there is a file now; those of the recorded size, if there are any: others have another text."""
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
