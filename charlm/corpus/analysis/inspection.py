"""All that is known about a corpus before anything is trained on it, ready for JSON."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from charlm.corpus.analysis.baselines import compute_baselines
from charlm.corpus.analysis.likeness import compare
from charlm.corpus.analysis.overlap import find_overlap
from charlm.corpus.analysis.statistics import (
    CharacterCount,
    control_characters,
    line_ends,
    line_lengths,
    rare_characters,
)
from charlm.corpus.loading import Corpus
from charlm.corpus.vocabulary import Vocabulary, show
from charlm.records import to_json

STAGES = 4
MAX_LISTED = 1000  # rare and control characters at most; their numbers are reported too
MAX_CHECKED_CHARACTERS = 5_000_000  # characters that are looked up in the training text: memory grows with them


def inspect_corpus(corpus: Corpus, on_stage: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Sizes, characters, lines, splits, overlap and baselines, under the names that ``charlm corpus inspect --json``
    prints, which say byte for character if the text is read as bytes. Calls ``on_stage`` after each of ``STAGES``.

    Everything is counted on the text itself: a character is one here even if ``min_count`` hides it from the model.
    """
    encoded, split, unit = corpus.encoded, corpus.split, corpus.vocabulary.unit
    alphabet = Vocabulary(encoded.alphabet, unit)
    train = encoded.ids[split.train.start : split.train.stop]
    validation = encoded.ids[split.validation.start : split.validation.stop]
    control = control_characters(encoded.alphabet, encoded.counts)
    if unit == "byte":
        control = [counted for counted in control if counted.character.isascii()]  # others may be part of any character
    rare = rare_characters(encoded.alphabet, encoded.counts)
    frequent = [encoded.alphabet[id_] for id_ in np.argsort(-encoded.counts, kind="stable")[:100]]
    report: dict[str, Any] = {
        "name": corpus.name,
        "unit": unit,
        "files": len(encoded.files),
        "size_bytes": sum(source.size_bytes for source in encoded.files),
        f"{unit}s": len(encoded.ids),
        f"distinct_{unit}s": len(encoded.alphabet),
        "unseen_in_training": corpus.only_outside_training(),
        "most_frequent": "".join(frequent) if unit == "character" else list(map(ord, frequent)),
        "documents": len(corpus.text.document_starts),
        "ranges": split.record(),
        "bigram_bits": asdict(alike) if (alike := compare(train, validation, len(alphabet))) else None,
        f"rare_{unit}s": len(rare),
        "rare": [_record(counted, unit) for counted in rare[:MAX_LISTED]],
        f"control_{unit}s": sum(counted.count for counted in control),
        "control": [_record(counted, unit) for counted in control[:MAX_LISTED]],
    }
    on_stage()
    report["lines"] = asdict(line_lengths(encoded.ids, alphabet))
    report["line_ends"] = asdict(line_ends(encoded.ids, alphabet))
    on_stage()
    checked = validation[:MAX_CHECKED_CHARACTERS]
    found = find_overlap(train, checked)
    report["overlap"] = {
        "min_length": found.min_length,
        f"validation_{unit}s": found.validation_characters,
        f"validation_{unit}s_checked": len(checked),
        "longest": [asdict(passage) for passage in found.longest],
    }
    on_stage()
    report["baselines"] = to_json(compute_baselines(train, validation, alphabet), unit)
    on_stage()
    return report


def _record(counted: CharacterCount, unit: str) -> dict[str, Any]:
    if unit == "character":
        return asdict(counted)
    byte = ord(counted.character)
    description = counted.description if counted.character.isascii() else show(counted.character, unit)
    return {"byte": byte, "description": description, "count": counted.count}
