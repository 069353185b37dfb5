"""Run folders: their checkpoints, which of them is best and latest, and which are kept.

None of this is stored; it is derived from the checkpoints and therefore always consistent.
"""

import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from charlm import files, reading, run_corpus
from charlm.checkpoint import loading, writing
from charlm.checkpoint.contents import CONFIG, MANIFEST, Checkpoint, SavedModel
from charlm.config import TrainSettings, parse_toml, to_toml
from charlm.errors import CharlmWarning, CheckpointError, UnreadableError, UsageError, VersionError
from charlm.run_corpus import CorpusFile

CHECKPOINT_NAME = re.compile(r"step-\d{8,}")
METRICS = "metrics.jsonl"
VALIDATION_EVENTS = "validation"  # TensorBoard's folder for the validation curve
MAX_METRICS_BYTES = 1 << 30  # five million log entries
LOCK = ".lock"
READ_ATTEMPTS = 3  # of a run in training, before concluding that no checkpoint is valid


Loaded = TypeVar("Loaded")


def create_run(run: Path, settings: TrainSettings, record: CorpusFile) -> None:
    """Create the run folder with ``config.toml`` and ``corpus.json``."""
    files.make_folder(run)
    files.remove_stale_temporaries(run)
    files.write_file(run / "config.toml", to_toml(settings).encode())
    files.write_file(run / run_corpus.NAME, record.encode())


def save_checkpoint(run: Path, saved: Checkpoint, keep: int) -> Path:
    """Save a checkpoint in its run, then prune. Returns the checkpoint's folder."""
    folder = run / f"step-{saved.model.step:08d}"
    if folder.exists():
        try:
            loading.load_checkpoint(folder, data=False)  # written, though the system would not confirm it
        except VersionError:
            raise
        except CheckpointError:
            files.remove_folder(folder)
    if not folder.exists():
        writing.write_checkpoint(folder, saved)
    try:
        prune_checkpoints(run, keep)
    except (OSError, UnreadableError) as error:  # only disk space is lost; the next save tries again
        reason = getattr(error, "strerror", None) or error
        warnings.warn(f"{run}: cannot remove an old checkpoint: {reason}.", CharlmWarning, stacklevel=2)
    return folder


def is_nonempty(run: Path) -> bool:
    """Whether the folder contains anything, a run or not."""
    return run.is_dir() and any(path.name != LOCK and files.TEMPORARY_INFIX not in path.name for path in run.iterdir())


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Lock the run folder for training. Raises ``UsageError`` if another process holds the lock."""
    files.make_folder(run)
    with ExitStack() as stack:
        try:
            stack.enter_context(files.file_lock(run / LOCK))
        except BlockingIOError:
            raise UsageError(
                f"{run}: another training process is using this folder.",
                "Wait for it to finish, or choose another --out.",
            ) from None
        yield


def prune_checkpoints(run: Path, keep: int) -> None:
    """Keep the best, the latest and ``keep`` more checkpoints, and all written by another version; remove the
    others.
    """
    folders = [folder for folder in list_checkpoints(run) if not _has_other_version(folder)]
    always = {*folders[:1], *sort_by_validation_loss(folders)[:1]}
    others = [folder for folder in folders if folder not in always]
    for folder in others[keep:]:
        files.remove_folder(folder)


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, latest first, not verified. Raises ``UnreadableError``."""
    try:
        with os.scandir(run) as entries:
            found = [Path(e.path) for e in entries if CHECKPOINT_NAME.fullmatch(e.name) and e.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnreadableError(run, error) from None
    return sorted(found, key=step_of, reverse=True)


def list_later_checkpoints(run: Path, step: int) -> list[Path]:
    return [folder for folder in list_checkpoints(run) if step_of(folder) > step]


def sort_by_validation_loss(folders: list[Path]) -> list[Path]:
    """The folders with a validation loss, the lowest first; of equal ones the older first."""
    losses: list[tuple[float, int, Path]] = []
    for folder in folders:
        try:
            loss = loading.read_json(folder / CONFIG)["metrics"].get("loss_validation")
        except (CheckpointError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(loss, float) and math.isfinite(loss):
            losses.append((loss, step_of(folder), folder))
    return [folder for _, _, folder in sorted(losses)]


def is_run(path: Path) -> bool:
    """Whether charlm created this folder: it contains charlm's settings or a checkpoint."""
    return has_settings(path) or any((folder / MANIFEST).is_file() for folder in list_checkpoints(path))


def run_folder_of(path: Path) -> Path:
    """The run folder of a run or checkpoint; for a model saved elsewhere, its own folder."""
    parent = path.absolute().parent
    return parent if is_checkpoint(path) and is_run(parent) else path


def has_settings(path: Path) -> bool:
    """Whether ``config.toml`` belongs to a run: it has most of the settings, of this or another version.

    Raises ``UnreadableError``.
    """
    try:
        keys = parse_toml(path / "config.toml").keys()
    except (FileNotFoundError, NotADirectoryError, reading.UnsuitableFileError, ValueError):  # TOML's and UTF-8's too
        return False
    except OSError as error:
        raise UnreadableError(path / "config.toml", error) from None
    known = TrainSettings.model_fields.keys()
    return len(keys & known) > len(known) / 2


def check_path(path: Path) -> None:
    """Raise ``UsageError`` if the path is impossible or not accessible."""
    try:
        path.exists()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}.", "Choose another path.") from None


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint or its remains. A run named after a text may have such a name, too."""
    has_name = CHECKPOINT_NAME.fullmatch(path.name) is not None
    return os.path.lexists(path / MANIFEST) or (has_name and not (path / "config.toml").exists())


def load_model(path: Path, which: str = "best", data: bool = True) -> SavedModel:
    """The model at ``path``: a checkpoint folder itself, or a run folder's ``best``, ``latest`` or a step.

    *latest* is the newest whose model verifies, *best* the one with the lowest validation loss; damaged ones are passed
    over with a warning. So are those of another version, but only for *best*: training that continued from an older one
    would have to discard them. ``data``: see :func:`charlm.checkpoint.loading.load_model`.

    Raises ``UsageError`` if there is no such folder or step, ``CheckpointError`` if what is there is damaged, of
    another version or not a checkpoint, and ``UnreadableError`` if one of them cannot be read, which says nothing about
    it: another may be older, or worse.
    """
    return _load(path, which, lambda folder: loading.load_model(folder, data))


def load_checkpoint(path: Path, which: str = "latest") -> Checkpoint:
    """The checkpoint at ``path``, with its training state: as :func:`load_model`, of which all is verified."""
    return _load(path, which, lambda folder: loading.load_checkpoint(folder))


def _load(path: Path, which: str, load: Callable[[Path], Loaded]) -> Loaded:
    check_path(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such run or checkpoint.", "Pass a run folder, for example checkpoints/NAME.")
    if is_checkpoint(path):
        return load(path)
    if which not in ("best", "latest") and not (which.isascii() and which.isdigit()):
        raise UsageError(f"--checkpoint {which}: must be best, latest or a step number.")
    for _ in range(READ_ATTEMPTS - 1):  # a running training process may prune a folder while it is read
        try:
            return _load_first_valid(path, which, load)
        except CheckpointError:
            continue
    return _load_first_valid(path, which, load)


def _load_first_valid(run: Path, which: str, load: Callable[[Path], Loaded]) -> Loaded:
    folders = list_checkpoints(run)
    if not folders:
        what = "this run has no checkpoint yet" if is_run(run) else "neither a run nor a checkpoint"
        raise CheckpointError(f"{run}: {what}.", "A run contains folders named step-N; charlm train creates them.")
    if which.isdigit():
        of_step = [folder for folder in folders if step_of(folder) == int(which)]
        if not of_step:
            steps = ", ".join(str(step_of(folder)) for folder in reversed(folders))
            raise UsageError(f"{run}: no checkpoint at step {which}.", f"Available steps: {steps}.")
        return load(of_step[0])
    others = [folder for folder in folders if _has_other_version(folder)]  # their losses are not known
    comparable = [folder for folder in folders if folder not in others]
    candidates = folders if which == "latest" else [*others, *sort_by_validation_loss(comparable), *comparable]
    problem: CheckpointError | None = None  # with any folder
    damaged: CheckpointError | None = None  # with a folder that was not just pruned
    for folder in dict.fromkeys(candidates):
        try:
            chosen = load(folder)
        except CheckpointError as error:
            if which == "latest" and isinstance(error, VersionError):
                raise
            problem = problem or error
            damaged = damaged or (error if folder.exists() else None)
            continue
        if damaged:
            warnings.warn(f"{damaged.message} Using {folder.name} instead.", CharlmWarning, stacklevel=2)
        return chosen
    raise problem or CheckpointError(f"{run}: no checkpoint.")


def remove_run(run: Path) -> None:
    """Remove charlm's files from a run folder, and nothing else. Raises ``UsageError`` if it is not a run."""
    if not is_run(run):
        raise UsageError(f"{run}: not a charlm run; --overwrite only replaces charlm runs.", "Choose another --out.")
    files.remove_stale_temporaries(run)
    for folder in [*list_checkpoints(run), *run.glob("step-*.damaged")]:
        files.remove_folder(folder)
    for folder in (run, run / VALIDATION_EVENTS):
        for path in folder.glob("events.out.tfevents.*"):
            files.remove_file(path)
    files.remove_empty_folder(run / VALIDATION_EVENTS)
    for name in (METRICS, run_corpus.NAME, "config.toml"):  # the last says that this is a run, should we be killed here
        files.remove_file(run / name)


def check_later(run: Path, step: int) -> None:
    """Raise ``VersionError`` if another version wrote a checkpoint after ``step``, which continuing would discard."""
    for folder in list_later_checkpoints(run, step):
        loading.check_version(folder)


def truncate_after(run: Path, step: int) -> None:
    """Roll a run back to ``step``: truncate ``metrics.jsonl`` and remove later checkpoints.

    Damaged later checkpoints are renamed to ``step-N.damaged`` instead. Raises ``VersionError``, before anything is
    removed, if another version wrote one of them, and ``UnreadableError`` if one cannot be read.
    """
    check_later(run, step)
    later = list_later_checkpoints(run, step)
    damaged = {folder for folder in later if _raises(_verify, folder, CheckpointError)}
    for folder in later:
        if folder in damaged:
            aside = folder.with_name(f"{folder.name}.damaged")
            if aside.exists():
                files.remove_folder(aside)
            files.rename(folder, aside)
        else:
            files.remove_folder(folder)
    entries = [
        e for e in read_json_lines(run / METRICS) if e.get("step", 0) <= step and "loss_validation_exact" not in e
    ]
    kept = [json.dumps(entry) + "\n" for entry in entries]
    files.write_file(run / METRICS, "".join(kept).encode())


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete objects of a JSON Lines file. Raises ``CheckpointError`` if it is not a regular file."""
    try:
        yield from reading.read_json_lines(path, MAX_METRICS_BYTES)
    except reading.UnsuitableFileError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}.") from None


def _has_other_version(folder: Path) -> bool:
    return _raises(loading.check_version, folder, VersionError)


def _verify(folder: Path) -> None:
    loading.load_checkpoint(folder, data=False)


def _raises(check: Callable[[Path], object], folder: Path, error: type[CheckpointError]) -> bool:
    try:
        check(folder)
    except error:
        return True
    return False


def step_of(folder: Path) -> int:
    """The step of a checkpoint, from its folder name."""
    return int(folder.name.removeprefix("step-"))
