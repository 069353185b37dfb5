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
from charlm.corpus import cache, encoded_text
from charlm.errors import CharlmError, CharlmWarning, UsageError
from tests.conftest import ROOT, SMALL
from tests.training.conftest import Make, make_trainer

__all__ = ["make_trainer"]  # a fixture

NOT_SUPPORTED = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]
each_unsupported = pytest.mark.parametrize("number", NOT_SUPPORTED, ids=errno.errorcode.get)


@pytest.fixture(autouse=True)
def _forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())
    files.process_folder.cache_clear()


def fail_with(number: int, applies: Callable[..., bool] = lambda *arguments: True) -> Callable[..., Any]:
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


def messages(caught: Any, *words: str) -> int:
    return sum(all(word in str(warning.message) for word in words) for warning in caught)


# Syncing


@each_unsupported
def test_unsyncable_folder_only_warns(make_trainer: Make, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(number, is_folder)(os.fsync))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CharlmWarning)
        trainer = make_trainer(save_every_minutes=1e-9)
        trainer.train()
    assert runs.load_model(trainer.run, "latest").step == 12
    assert messages(caught, os.strerror(number)) == len(caught) == 1


@each_unsupported
def test_unsyncable_file_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(number)(os.fsync))
    with pytest.warns(CharlmWarning):
        files.write_file(tmp_path / "one", b"written")
    files.write_file(tmp_path / "two", b"written")  # says nothing
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == b"written"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_failing_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(number, is_folder)(os.fsync))
    with pytest.raises(OSError, match=os.strerror(number)):
        files.write_file(tmp_path / "file", b"written")
    with pytest.raises(OSError, match=os.strerror(number)):
        files.write_folder(tmp_path / "folder", {"file": b"written"})


# Locks

NO_LOCKS = [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_training_works_without_file_locks(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", fail_with(number)(fcntl.flock))
    with pytest.warns(CharlmWarning, match="lock"), runs.lock_run(tmp_path / "run"):
        pass
    with runs.lock_run(tmp_path / "run"):  # says nothing
        make_trainer().train()


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_other_lock_failure_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", fail_with(number)(fcntl.flock))
    with pytest.raises(OSError, match=os.strerror(number)), files.file_lock(tmp_path / "lock"):
        pass


def test_held_lock_is_respected(tmp_path: Path) -> None:
    with files.file_lock(tmp_path / "lock"), pytest.raises(BlockingIOError), files.file_lock(tmp_path / "lock"):
        pass


def test_lock_errors_inside_the_block_propagate(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)), files.file_lock(tmp_path / "lock"):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


# The cache


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("some text\n" * 10)
    os.utime(path, ns=(10**18, 10**18))
    return path


def decode(found: encoded_text.EncodedText) -> str:
    return "".join(found.alphabet[id_] for id_ in found.ids)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("fails", ["mkdir", "write", "rename"])
def test_unwritable_cache_falls_back_to_temporary_folder(
    text: Path, monkeypatch: pytest.MonkeyPatch, fails: str, number: int
) -> None:
    folder = text.parent / "cache"
    inside = {
        "mkdir": (Path, "mkdir", lambda path, *rest: folder in (path, *path.parents)),
        "write": (encoded_text.IdWriter, "add", lambda spool, piece: str(folder) in spool.file.name),
        "rename": (Path, "rename", lambda path, new: folder in path.parents),
    }
    owner, name, applies = inside[fails]
    monkeypatch.setattr(owner, name, fail_with(number, applies)(getattr(owner, name)))
    with pytest.warns(CharlmWarning) as caught:
        found = [decode(cache.load_or_encode(folder, [text], CorpusSettings())) for _ in range(2)]
    assert found == ["some text\n" * 10] * 2
    assert messages(caught, str(folder), os.strerror(number)) == len(caught) == 1
    assert not list(folder.glob(f"*/{files.BUILDING_PREFIX}*"))


def test_uncached_text_is_read_once_per_process(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = text.parent / "cache", []
    build = encoded_text.encode_files
    monkeypatch.setattr(encoded_text, "encode_files", lambda *arguments: read.append(1) or build(*arguments))
    folder.write_text("a file in its place")
    with pytest.warns(CharlmWarning):
        first = cache.load_or_encode(folder, [text], CorpusSettings())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.load_or_encode(folder, [text], CorpusSettings()).folder == first.folder
        assert cache.find_by_hash(folder, first.files_sha256, CorpusSettings()) is not None
    assert len(read) == 1


def test_failing_disk_under_cache_is_an_error(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_text.IdWriter, "add", fail_with(errno.EIO)(encoded_text.IdWriter.add))
    with pytest.raises(CharlmError, match=os.strerror(errno.EIO)):
        cache.load_or_encode(text.parent / "cache", [text], CorpusSettings())


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_partially_read_stream_is_not_retried(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = text.with_name("pipe")
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("some text\n" * 10))
    writer.start()
    monkeypatch.setattr(encoded_text.IdWriter, "add", fail_with(errno.ENOSPC)(encoded_text.IdWriter.add))
    with pytest.raises(CharlmError, match=os.strerror(errno.ENOSPC)) as raised:
        cache.load_or_encode(text.parent / "cache", [pipe], CorpusSettings())
    writer.join()
    assert "--cache-dir" in raised.value.hint


def test_document_starts_with_read_only_cache(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CorpusSettings(document_separator="\n")
    found = cache.load_or_encode(text.parent / "cache", [text], settings)
    is_inside = fail_with(errno.EROFS, lambda path, *rest: found.folder in path.parents)
    monkeypatch.setattr(Path, "open", is_inside(Path.open))
    with pytest.warns(CharlmWarning) as caught:
        starts = cache.load_document_starts(found, settings)
    assert np.array_equal(starts, np.arange(0, 100, 10))
    assert len(caught) == 1


def test_full_disk_everywhere_names_the_cause(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_text.IdWriter, "add", fail_with(errno.ENOSPC)(encoded_text.IdWriter.add))
    with pytest.raises(CharlmError, match=os.strerror(errno.ENOSPC)) as raised:
        cache.load_or_encode(text.parent / "cache", [text], CorpusSettings())
    assert "--cache-dir" in raised.value.hint


@pytest.mark.parametrize("error", [RuntimeError("Could not determine home directory."), KeyError("getpwuid")], ids=repr)
def test_cache_without_home_folder_is_temporary(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def homeless(name: str) -> Path:
        raise error

    monkeypatch.delenv(cache.CACHE_VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    with pytest.warns(CharlmWarning) as caught:
        folders = {cache.default_folder() for _ in range(2)}
    assert len(folders) == len(caught) == 1
    assert Path(tempfile.gettempdir()) in folders.pop().parents


@pytest.mark.skipif(sys.platform == "win32", reason="homes of Unix")
def test_training_works_for_user_without_passwd_entry(tmp_path: Path, poem_file: Path) -> None:
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

    monkeypatch.setattr(commands.command_group, "main", crash)
    monkeypatch.setattr(sys, "argv", ["charlm"])


@pytest.mark.usefixtures("_crashing")
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_crash_without_temporary_folder_prints_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", fail_with(number)(tempfile.mkstemp))
    with pytest.raises(SystemExit) as ended:
        commands.main()
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert "ZeroDivisionError: by zero" in shown
    assert "Traceback (most recent call last)" in shown
    assert "mkstemp" not in shown


def test_lock_of_other_process_is_reported_correctly(tmp_path: Path) -> None:
    held = filelock.FileLock(tmp_path / "run" / runs.LOCK)
    (tmp_path / "run").mkdir()
    with held, pytest.raises(UsageError, match="another"), runs.lock_run(tmp_path / "run"):
        pass
