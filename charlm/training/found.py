"""Find out what is in the run folder before training: nothing, a run to replace, or a checkpoint to resume."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm import runs
from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.config import (
    CorpusSettings,
    ModelSettings,
    RegularizationSettings,
    SettingsSource,
    SourceKind,
    TrainSettings,
    choose_automatic,
    resolve,
)
from charlm.corpus import sources
from charlm.errors import UsageError
from charlm.training.request import TrainingRequest

RESERVED = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)  # by Windows

# With other values, the saved state would not fit or would have another meaning
FIXED_ON_RESUME = (
    *ModelSettings.model_fields,
    *RegularizationSettings.model_fields,
    *CorpusSettings.model_fields,
    "batch_size",
    "sequence_length",
    "length_variation",
    "reset_probability",
    "optimizer",
    "average_decay",
    "beta1",
    "beta2",
    "weight_decay",
    "seed",
    "init_from",
)


@dataclass(frozen=True)
class FoundRun:
    folder: Path
    known_checkpoints: list[Path]
    checkpoint: Checkpoint | None = None  # to resume
    is_replaced: bool = False  # the existing run is removed


def find_new_run(request: TrainingRequest) -> FoundRun:
    """The folder of a new run. Raises ``UsageError`` if it contains something that must not be replaced."""
    run = request.out or default_run_folder(request.corpus_names)
    runs.check_path(run)
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run}: is a file.", "Choose another --out.")
    occupied = runs.is_nonempty(run)
    if occupied and not runs.is_run(run):
        only = "; --overwrite only replaces charlm runs" if request.overwrite else ""
        raise UsageError(f"{run}: the folder is not empty and is not a run{only}.", "Choose another --out.")
    if occupied and not request.overwrite:
        raise UsageError(
            f"{run}: a run already exists here.",
            "Continue it with --resume auto, replace it with --overwrite, or choose another folder with --out.",
        )
    return FoundRun(run, runs.list_checkpoints(run), is_replaced=request.overwrite)


def find_run_to_resume(path: Path, out: Path | None) -> FoundRun:
    """The run at ``path`` with its latest checkpoint, or with the checkpoint at ``path``.

    Raises ``UsageError`` if it cannot be resumed there, and what :func:`charlm.runs.load_checkpoint` raises.
    """
    run = path.absolute().parent if runs.is_checkpoint(path) else path
    if out is not None and out.resolve() != run.resolve():
        raise UsageError(f"--out {out}: a resumed run cannot move from its folder, {run}.", "Remove --out.")
    known_checkpoints = runs.list_checkpoints(run)
    checkpoint = runs.load_checkpoint(path)
    runs.check_later(run, checkpoint.model.step)
    if not runs.has_settings(run):
        raise UsageError(f"{path}: not inside a run folder.", "Move the checkpoint back into its run folder.")
    return FoundRun(run, known_checkpoints, checkpoint)


def resolve_on_resume(path: Path, saved: SavedModel, settings_sources: Sequence[SettingsSource]) -> TrainSettings:
    """The checkpoint's settings with the given changes. Raises ``UsageError`` if a fixed setting changes."""
    before = saved.settings
    of_checkpoint = SettingsSource(str(saved.folder), before.model_dump(), SourceKind.CHECKPOINT)
    start, end = saved.corpus.split.train
    automatic = choose_automatic(end - start)
    # Fixed by now; a run that was not limited in steps may become so
    automatic.update({name: getattr(before, name) for name in automatic if name in FIXED_ON_RESUME or before.max_steps})
    settings = resolve(TrainSettings, [of_checkpoint, *settings_sources], automatic)
    changed = [name for name in FIXED_ON_RESUME if getattr(settings, name) != getattr(before, name)]
    if changed:
        raise UsageError(
            f"{path}: resuming cannot change {', '.join(f'{name} ({getattr(before, name)!r})' for name in changed)}.",
            "Remove these options, or start a new run with --out checkpoints/NAME.",
        )
    return settings


def default_run_folder(corpus_names: Sequence[str]) -> Path:
    return Path("checkpoints") / portable_name(sources.corpus_name(corpus_names))


def portable_name(name: str) -> str:
    """A folder name that is valid on every system, as similar to ``name`` as possible."""
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).rstrip(". ")
    start, dot, rest = name.partition(".")
    return f"{start}_{dot}{rest}" if RESERVED.fullmatch(start.rstrip()) else name or "corpus"
