"""What a training run is asked to do, before anything is looked up."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm.config import Layer
from charlm.corpus import sources

RESERVED = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)  # by Windows


@dataclass(frozen=True)
class TrainingRequest:
    """``resume``: the path of a run or checkpoint, ``auto`` (the run in the run folder, if there is one), or ``None``
    for a new run. ``cache_folder`` keeps encoded texts; ``None``: the user's own.
    """

    corpus_names: Sequence[str]
    settings_sources: Sequence[Layer]
    out: Path | None = None
    resume: str | Path | None = None
    overwrite: bool = False
    cache_folder: Path | None = None
    quiet: bool = True

    @property
    def run_folder(self) -> Path:
        return self.out or default_run_folder(self.corpus_names)


def default_run_folder(corpus_names: Sequence[str]) -> Path:
    return Path("checkpoints") / portable_name(sources.name_of(corpus_names))


def portable_name(name: str) -> str:
    """A name that a folder may have on every system, as near to ``name`` as can be."""
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).rstrip(". ")
    start, dot, rest = name.partition(".")
    return f"{start}_{dot}{rest}" if RESERVED.fullmatch(start.rstrip()) else name or "corpus"
