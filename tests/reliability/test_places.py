"""Places that lack something: a folder that cannot be synced, no locks, no home, a cache or no temporary folder that
can be written. What is only a convenience is done without, and that is said once; a failing disk stays an error.
"""

import errno
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs
import pytest

from charlm import commands, errors, files, runs
from charlm.config import CorpusSettings
from charlm.corpus import cache, encoded
from charlm.errors import CharlmError, CharlmWarning, UsageError
from tests.conftest import ROOT, SMALL
from tests.training.conftest import Make, make_trainer

__all__ = ["make_trainer"]  # a fixture

NOT_SUPPORTED = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]
each_unsupported = pytest.mark.parametrize("number", NOT_SUPPORTED, ids=errno.errorcode.get)


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_said", set())
    files.process_folder.cache_clear()


def failing(number: int, applies: Callable[..., bool] = lambda *arguments: True) -> Callable[..., Any]:
    """A function that fails with an error of the system, or calls the original one where it does not apply."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if applies(*arguments):
                raise OSError(number, os.strerror(number))
            return original(*arguments, **options)

        return call

    return make


def is_folder(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").is_dir()


def said(caught: Any, *words: str) -> int:
    return sum(all(word in str(warning.message) for word in words) for warning in caught)


# Syncing


@each_unsupported
def test_a_folder_that_cannot_be_synced_is_done_without(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number, is_folder)(os.fsync))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CharlmWarning)
        trainer = make_trainer(save_every_minutes=1e-9)
        trainer.train()
    assert runs.load_model(trainer.run, "latest").step == 12
    assert said(caught, os.strerror(number)) == len(caught) == 1


@each_unsupported
def test_a_file_that_cannot_be_synced_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number)(os.fsync))
    with pytest.warns(CharlmWarning):
        files.write_file(tmp_path / "one", b"written")
    files.write_file(tmp_path / "two", b"written")  # says nothing
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == b"written"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_disk_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", failing(number, is_folder)(os.fsync))
    with pytest.raises(OSError, match=os.strerror(number)):
        files.write_file(tmp_path / "file", b"written")
    with pytest.raises(OSError, match=os.strerror(number)):
        files.commit_folder(tmp_path / "folder", {"file": b"written"})


# Locks

NO_LOCKS = [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_a_run_trains_where_there_are_no_locks(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", failing(number)(fcntl.flock))
    with pytest.warns(CharlmWarning, match="lock"), runs.locked(tmp_path / "run"):
        pass
    with runs.locked(tmp_path / "run"):  # says nothing
        make_trainer().train()


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_another_failure_to_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", failing(number)(fcntl.flock))
    with pytest.raises(OSError, match=os.strerror(number)), files.locked(tmp_path / "lock"):
        pass


def test_a_lock_that_is_held_is_still_held(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock"), pytest.raises(BlockingIOError), files.locked(tmp_path / "lock"):
        pass


def test_a_block_that_fails_for_want_of_locks_of_its_own_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)), files.locked(tmp_path / "lock"):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


# The cache


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("some text\n" * 10)
    os.utime(path, ns=(10**18, 10**18))
    return path


def decoded(found: encoded.Encoded) -> str:
    return "".join(found.alphabet[id_] for id_ in found.ids)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("fails", ["mkdir", "write", "rename"])
def test_a_cache_that_cannot_be_written_is_done_without(
    text: Path, monkeypatch: pytest.MonkeyPatch, fails: str, number: int
) -> None:
    folder = text.parent / "cache"
    inside = {
        "mkdir": (Path, "mkdir", lambda path, *rest: folder in (path, *path.parents)),
        "write": (encoded.Spool, "add", lambda spool, piece: str(folder) in spool.file.name),
        "rename": (Path, "rename", lambda path, new: folder in path.parents),
    }
    owner, name, applies = inside[fails]
    monkeypatch.setattr(owner, name, failing(number, applies)(getattr(owner, name)))
    with pytest.warns(CharlmWarning) as caught:
        found = [decoded(cache.get(folder, [text], CorpusSettings())) for _ in range(2)]
    assert found == ["some text\n" * 10] * 2
    assert said(caught, str(folder), os.strerror(number)) == len(caught) == 1
    assert not list(folder.glob(f"*/{files.BUILDING_MARK}*"))


def test_a_text_that_could_not_be_cached_is_read_once_in_a_process(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = text.parent / "cache", []
    build = encoded.build
    monkeypatch.setattr(encoded, "build", lambda *arguments: read.append(1) or build(*arguments))
    folder.write_text("a file in its place")
    with pytest.warns(CharlmWarning):
        first = cache.get(folder, [text], CorpusSettings())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get(folder, [text], CorpusSettings()).folder == first.folder
        assert cache.recall(folder, first.files_sha256, CorpusSettings()) is not None
    assert len(read) == 1


def test_a_failing_disk_under_the_cache_is_an_error(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded.Spool, "add", failing(errno.EIO)(encoded.Spool.add))
    with pytest.raises(CharlmError, match=os.strerror(errno.EIO)):
        cache.get(text.parent / "cache", [text], CorpusSettings())


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_stream_that_was_read_in_part_cannot_be_read_again(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = text.with_name("pipe")
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("some text\n" * 10))
    writer.start()
    monkeypatch.setattr(encoded.Spool, "add", failing(errno.ENOSPC)(encoded.Spool.add))
    with pytest.raises(CharlmError, match=os.strerror(errno.ENOSPC)) as raised:
        cache.get(text.parent / "cache", [pipe], CorpusSettings())
    writer.join()
    assert "--cache-dir" in raised.value.hint


def test_document_starts_of_a_text_in_a_cache_that_is_read_only(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CorpusSettings(document_separator="\n")
    found = cache.get(text.parent / "cache", [text], settings)
    is_inside = failing(errno.EROFS, lambda path, *rest: found.folder in path.parents)
    monkeypatch.setattr(Path, "open", is_inside(Path.open))
    with pytest.warns(CharlmWarning) as caught:
        starts = cache.load_document_starts(found, settings)
    assert np.array_equal(starts, np.arange(0, 100, 10))
    assert len(caught) == 1


def test_without_room_anywhere_the_cause_is_named(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded.Spool, "add", failing(errno.ENOSPC)(encoded.Spool.add))
    with pytest.raises(CharlmError, match=os.strerror(errno.ENOSPC)) as raised:
        cache.get(text.parent / "cache", [text], CorpusSettings())
    assert "--cache-dir" in raised.value.hint


@pytest.mark.parametrize("error", [RuntimeError("Could not determine home directory."), KeyError("getpwuid")], ids=repr)
def test_without_a_home_the_cache_is_a_temporary_folder(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def homeless(name: str) -> Path:
        raise error

    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    with pytest.warns(CharlmWarning) as caught:
        folders = {cache.default_folder() for _ in range(2)}
    assert len(folders) == len(caught) == 1
    assert Path(tempfile.gettempdir()) in folders.pop().parents


@pytest.mark.skipif(sys.platform == "win32", reason="homes of Unix")
def test_a_user_whom_the_system_does_not_know_trains(tmp_path: Path, poem_file: Path) -> None:
    """No HOME, and a user id without an entry, as in containers."""
    code = (
        "import os, pwd, sys\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from charlm.commands import main; main()"
    )
    (tmp_path / "homeless.py").write_text(code)
    kept = {n: v for n, v in os.environ.items() if n not in ("HOME", "CHARLM_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "homeless.py", "train", str(poem_file), *SMALL],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("temporary folder") == 1
    assert not (tmp_path / "~").exists()


# The crash reporter


@pytest.fixture
def _crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(**options: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(commands.group, "main", crash)
    monkeypatch.setattr(sys, "argv", ["charlm"])


@pytest.mark.usefixtures("_crashing")
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_without_a_temporary_folder_a_crash_prints_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", failing(number)(tempfile.mkstemp))
    with pytest.raises(SystemExit) as ended:
        commands.main()
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert "ZeroDivisionError: by zero" in shown
    assert "Traceback (most recent call last)" in shown
    assert "mkstemp" not in shown


def test_the_lock_of_another_process_is_named_not_the_lack_of_locks(tmp_path: Path) -> None:
    held = filelock.FileLock(tmp_path / "run" / runs.LOCK)
    (tmp_path / "run").mkdir()
    with held, pytest.raises(UsageError, match="another"), runs.locked(tmp_path / "run"):
        pass
