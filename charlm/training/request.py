"""The request for a training run, before anything is looked up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm.config import SettingsSource


@dataclass(frozen=True)
class TrainingRequest:
    """``resume``: the path of a run or checkpoint, ``auto`` (the run in the run folder, if there is one), or ``None``
    for a new run. ``cache_folder`` keeps encoded texts; ``None``: the user's own.
    """

    corpus_names: Sequence[str]
    settings_sources: Sequence[SettingsSource]
    out: Path | None = None
    resume: str | Path | None = None
    overwrite: bool = False
    cache_folder: Path | None = None
    quiet: bool = True
