"""A Python string as a model reads it."""

import re

import numpy as np

from charlm.config import CorpusSettings
from charlm.corpus.decoding import normalize_text
from charlm.corpus.text import Positions, Text
from charlm.corpus.vocabulary import Vocabulary


def encode_string(text: str, vocabulary: Vocabulary, settings: CorpusSettings) -> Text:
    """Encode a string with these settings. Raises ``TextError`` for characters outside the vocabulary."""
    text = normalize_text(text, settings)
    ids = vocabulary.encode(text, "replace")
    return Text(vocabulary, ids, document_starts=_document_starts(vocabulary.to_units(text), vocabulary, settings))


def encode_characters(characters: list[str], vocabulary: Vocabulary, settings: CorpusSettings) -> Text:
    """Encode generated output: characters, or bytes as characters of the same value."""
    starts = _document_starts("".join(characters), vocabulary, settings)
    return Text(vocabulary, vocabulary.lookup_ids(characters), document_starts=starts)


def _document_starts(spelled: str, vocabulary: Vocabulary, settings: CorpusSettings) -> Positions:
    separator = vocabulary.to_units(settings.document_separator)
    ends = [match.end() for match in re.finditer(re.escape(separator), spelled)]
    starts = [0, *(end for end in ends if end < len(spelled))] if separator else []
    return np.array(starts, dtype=np.int64)
