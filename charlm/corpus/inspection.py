"""All that is known about a corpus before anything is trained on it, ready for JSON."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from charlm.corpus.floors import floors
from charlm.corpus.loading import Corpus
from charlm.corpus.repeats import repeats
from charlm.corpus.statistics import control_characters, line_ends, line_lengths, rare
from charlm.corpus.vocabulary import Vocabulary

STAGES = 4
LISTED = 1000  # rare and control characters; how many there are is said beside them
VALIDATION_AT_MOST = 5_000_000  # characters that are looked up in the training text: memory grows with them


def inspect(corpus: Corpus, on_stage: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Sizes, characters, lines, splits, repeats and floors; ``on_stage`` is told after each of ``STAGES``.

    Everything is counted on the text itself: a character is one here even if ``min_count`` hides it from the model.
    """
    encoded, split = corpus.encoded, corpus.split
    alphabet = Vocabulary(encoded.alphabet, corpus.vocabulary.unit)
    train = encoded.ids[split.train.start : split.train.stop]
    validation = encoded.ids[split.validation.start : split.validation.stop]
    odd = control_characters(encoded.alphabet, encoded.counts)
    scarce = rare(encoded.alphabet, encoded.counts)
    report: dict[str, Any] = {
        "name": corpus.name,
        "unit": alphabet.unit,
        "files": len(encoded.files),
        "size_bytes": sum(source.size_bytes for source in encoded.files),
        "characters": len(encoded.ids),
        "distinct_characters": len(encoded.alphabet),
        "only_outside_training": corpus.only_outside_training(),
        "most_frequent": "".join(encoded.alphabet[id_] for id_ in np.argsort(-encoded.counts, kind="stable")[:100]),
        "documents": len(corpus.text.document_starts),
        "ranges": split.record(),
        "rare_characters": len(scarce),
        "rare": [asdict(character) for character in scarce[:LISTED]],
        "control_characters": sum(character.count for character in odd),
        "control": [asdict(character) for character in odd[:LISTED]],
    }
    on_stage()
    report["lines"] = asdict(line_lengths(encoded.ids, alphabet))
    report["line_ends"] = asdict(line_ends(encoded.ids, alphabet))
    on_stage()
    looked_at = validation[:VALIDATION_AT_MOST]
    report["repeats"] = {**asdict(repeats(train, looked_at)), "validation_looked_at": len(looked_at)}
    on_stage()
    report["floors"] = asdict(floors(train, validation, alphabet))
    on_stage()
    return report
