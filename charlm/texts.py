"""The ``corpus.json`` of a run: which text it was trained on, file by file."""

from pathlib import Path

from pydantic import ValidationError

from charlm.checkpoint import loading, writing
from charlm.corpus.record import CorpusFile, CorpusRecord
from charlm.errors import CheckpointError, TextError, quote

NAME = "corpus.json"
AT_MOST_BYTES = 1 << 28  # more than a million files


def encode(record: CorpusFile) -> bytes:
    """The content of the file. Raises ``TextError`` if it would be too large to be read again."""
    data = writing.encode_json(record.model_dump())
    if len(data) > AT_MOST_BYTES:
        raise TextError(
            f"{record.name}: the list of {record.num_files:,} files takes {len(data):,} bytes, more than {NAME} may.",
            "Join files, with a line between them that --document-separator names.",
        )
    return data


def read(run: Path) -> CorpusFile:
    """Raises ``CheckpointError`` if it is missing or cannot be read."""
    path = run / NAME
    try:
        return CorpusFile(**loading.read_json(path, AT_MOST_BYTES))
    except (CheckpointError, ValidationError) as error:
        reason = loading.first_problem(error) if isinstance(error, ValidationError) else "missing or damaged"
        raise CheckpointError(
            f"{path}: cannot tell which text this run was trained on: {reason}.",
            f"Pass the text again: charlm train TEXT --resume {quote(run)}",
        ) from None


def find(run: Path, record: CorpusRecord) -> CorpusFile | None:
    """The file of a run if it is there, valid and about that very corpus."""
    try:
        found = read(run)
    except CheckpointError:
        return None
    return found if found.files_sha256 == record.files_sha256 else None
