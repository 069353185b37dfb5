import ast
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import charlm
from charlm import files

PACKAGE = Path(charlm.__file__).parent
CONTENTS = {"weights.bin": b"\x00\xff" * 1000, "config.json": b"{}\n", "manifest.json": b""}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def fail_nth_operation(number: int, error: BaseException) -> Iterator[list[str]]:
    """The operation of that number fails: opening, syncing, making a folder, renaming. Yields those that were begun."""
    begun: list[str] = []

    def breaking(name: str, operation: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            begun.append(name)
            if len(begun) == number:
                raise error
            return operation(*arguments, **options)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", breaking("fsync", os.fsync))
        for name in ("open", "mkdir", "rename", "replace"):
            patch.setattr(Path, name, breaking(name, getattr(Path, name)))
        yield begun


Failing = Callable[[int, BaseException], AbstractContextManager[list[str]]]
each_fault = pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"]
)


def test_write_file_replaces_existing_file(tmp_path: Path) -> None:
    for data in (b"one\r\n\x00\xff", b"", b"two"):
        files.write_file(tmp_path / "file", data)
        assert tree(tmp_path) == {"file": data}


@each_fault
@pytest.mark.parametrize("before", [{}, {"file": b"old"}], ids=["new", "replaced"])
def test_write_file_is_atomic_under_any_failure(tmp_path: Path, before: dict[str, bytes], error: BaseException) -> None:
    for number in range(1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in before.items():
            (folder / name).write_bytes(data)
        try:
            with fail_nth_operation(number, error) as begun:
                files.write_file(folder / "file", b"new")
        except type(error):
            published = begun[:-1].count("replace") + begun[:-1].count("rename")
            assert tree(folder) == ({"file": b"new"} if published else before)
            continue
        assert {"fsync", "open"} <= set(begun)
        assert tree(folder) == {"file": b"new"}
        assert number > 3
        return
    pytest.fail("it never succeeds")


@each_fault
def test_atomic_writer_publishes_file_at_the_end(tmp_path: Path, error: BaseException) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"n"
        raise error

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(type(error)), files.atomic_writer(tmp_path / "file") as file:
        file.writelines(pieces())
    assert tree(tmp_path) == {"file": b"old"}
    with files.atomic_writer(tmp_path / "file") as file:
        for piece in (b"n", b"e", b"w"):
            file.write(piece)
            assert (tmp_path / "file").read_bytes() == b"old"
    assert tree(tmp_path) == {"file": b"new"}


@each_fault
def test_write_folder_is_atomic_under_any_failure(tmp_path: Path, error: BaseException) -> None:
    for number in range(1, 100):
        parent = tmp_path / str(number)
        parent.mkdir()
        try:
            with fail_nth_operation(number, error) as begun:
                files.write_folder(parent / "step", CONTENTS)
        except type(error):
            published = "rename" in begun[:-1]
            assert tree(parent) == (
                {f"step{os.sep}{name}": data for name, data in CONTENTS.items()} if published else {}
            )
            assert [path.name for path in parent.iterdir()] == ["step"] * published
            continue
        assert begun.count("fsync") >= len(CONTENTS)
        assert tree(parent / "step") == CONTENTS
        assert number > 2 * len(CONTENTS)
        return
    pytest.fail("it never succeeds")


def test_folder_is_synced_before_rename(tmp_path: Path) -> None:
    with fail_nth_operation(0, OSError()) as begun:
        files.write_folder(tmp_path / "step", CONTENTS)
    before = begun[: begun.index("rename")]
    assert before.count("open") == len(CONTENTS)
    assert before.count("fsync") >= len(CONTENTS)
    if os.name != "nt":
        assert before.count("fsync") == len(CONTENTS) + 1
        assert begun[begun.index("rename") :].count("fsync") == 1


def test_write_folder_keeps_file_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        seen.append({path.name for folder in tmp_path.iterdir() for path in folder.iterdir()})
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    files.write_folder(tmp_path / "step", CONTENTS)
    names = list(CONTENTS)
    assert seen[: len(names)] == [set(names[: number + 1]) for number in range(len(names))]


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_write_folder_does_not_overwrite(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "step")
    with pytest.raises(FileExistsError):
        files.write_folder(tmp_path / "step", CONTENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
    assert tree(tmp_path / "step") == {}


def test_make_folder_creates_parents(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()


def test_remove_folder_removes_contents(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "step", CONTENTS)
    files.remove_folder(tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


def test_failed_removal_leaves_no_partial_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        next(path.iterdir()).unlink()
        raise KeyboardInterrupt

    files.write_folder(tmp_path / "step", CONTENTS)
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            files.remove_folder(tmp_path / "step")
    assert not (tmp_path / "step").exists()
    files.remove_stale_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_stale_temporaries_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"step-00000001/config.json": b"1", ".hidden/file": b"2", "a.writing-book": b"3", ".writing": b"4"}
    for name, data in kept.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with monkeypatch.context() as patch:  # as a kill would: nothing is tidied up
        patch.setattr(files.shutil, "rmtree", lambda path, **options: None)
        patch.setattr(Path, "unlink", lambda path, **options: None)
        for number, write in ((2, files.write_folder), (2, files.write_file)):
            data: Mapping[str, bytes] | bytes = CONTENTS if write is files.write_folder else b"data"
            with pytest.raises(OSError, match="killed"), fail_nth_operation(number, OSError("killed")):
                write(tmp_path / f"{write.__name__}.x", data)  # type: ignore[operator]
    assert len(list(tmp_path.iterdir())) == len(kept) + 2
    files.remove_stale_temporaries(tmp_path)
    assert {name.replace(os.sep, "/"): data for name, data in tree(tmp_path).items()} == kept


def test_stale_symbolic_link_is_removed_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    run = tmp_path / "run"
    run.mkdir()
    try:
        (run / f".x{files.TEMPORARY_INFIX}0").symlink_to(tmp_path / "mine", target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    files.remove_stale_temporaries(run)
    assert list(run.iterdir()) == []
    assert (tmp_path / "mine" / "file").exists()


def test_append_line_writes_immediately(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for text in ("été\n", "two\n"):
        files.append_line(path, text.removesuffix("\n"))
        assert path.read_text(encoding="utf-8").endswith(text)
    assert path.read_bytes() == "été\ntwo\n".encode()


def test_append_line_completes_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntw")
    files.append_line(path, "three")
    assert path.read_bytes() == b"one\ntw\nthree\n"


def test_file_lock_is_exclusive_and_released(tmp_path: Path) -> None:
    with files.file_lock(tmp_path / "lock"), pytest.raises(BlockingIOError), files.file_lock(tmp_path / "lock"):
        pass
    with files.file_lock(tmp_path / "lock"):
        pass


def test_remove_file_ignores_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for _ in range(2):
        files.remove_file(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_rename_keeps_contents(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "old", CONTENTS)
    files.rename(tmp_path / "old", tmp_path / "new")
    assert tree(tmp_path / "new") == CONTENTS
    assert not (tmp_path / "old").exists()


def test_each_log_is_a_new_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one, two = files.write_temp_log("été"), files.write_temp_log("two")
    assert one != two
    assert (one.read_text(encoding="utf-8"), two.read_text(encoding="utf-8")) == ("été", "two")
    assert one.parent == tmp_path


def test_sha256_known_value() -> None:
    assert files.sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


# Only charlm/files.py writes

MODULES = {"os", "shutil", "tempfile", "torch", "np", "numpy", "safetensors", "io"}
OF_MODULES = {
    *("os.replace", "os.rename", "os.renames", "os.remove", "os.unlink", "os.rmdir", "os.removedirs", "os.mkdir"),
    *("os.makedirs", "os.link", "os.symlink", "os.truncate", "os.fsync", "os.write", "os.fdopen"),
    *("torch.save", "np.save", "np.savez", "np.memmap", "numpy.save", "safetensors.torch.save_file"),
}
OF_PATHS = {
    *("write_text", "write_bytes", "unlink", "rename", "mkdir", "rmdir", "touch", "symlink_to", "hardlink_to"),
    *("chmod", "tofile", "save_file", "truncate"),
}


def writes(source: str) -> list[str]:
    """The calls in a module that change what is on the disk."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if _writes(call)]


def _writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    first = name.split(".")[0]
    if name == "np.memmap":
        return not any(keyword.arg == "mode" and ast.unparse(keyword.value) == "'r'" for keyword in call.keywords)
    if name == "os.open":
        flags = ast.unparse(call.args[1])
        only_reads = flags.startswith("os.O_RDONLY") and not re.search("WRONLY|RDWR|CREAT|TRUNC|APPEND", flags)
        return ast.unparse(call.args[0]) != "os.devnull" and not only_reads
    if name == "np.savez":
        return ast.unparse(call.args[0]) != "in_memory"
    if first in MODULES and first != "io":
        return name in OF_MODULES or (first in {"shutil", "tempfile"} and name != "shutil.get_terminal_size")
    if name in ("open", "io.open"):
        return _opens_for_writing(call.args[1:], call)
    if not isinstance(call.func, ast.Attribute) or first == "files":
        return False
    method = call.func.attr
    of_a_path = method == "replace" and len(call.args) == 1  # that of a string takes two
    return method in OF_PATHS or of_a_path or (method == "open" and _opens_for_writing(call.args, call))


def _opens_for_writing(arguments: list[ast.expr], call: ast.Call) -> bool:
    modes = arguments[:1] + [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return any(not isinstance(mode, ast.Constant) or not set(str(mode.value)) <= set("rbt") for mode in modes)


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')",
        "open(path, mode='r+b')",
        "open(path, mode)",
        "path.open('a')",
        "(folder / 'x').open(mode='xb')",
        "Path(name).write_text(text)",
        "(folder / name).write_bytes(data)",
        "old.replace(new)",
        "old.rename(new)",
        "path.parent.mkdir(parents=True)",
        "path.unlink()",
        "os.replace(a, b)",
        "os.open(path, os.O_WRONLY)",
        "os.open(path, os.O_RDONLY | os.O_CREAT)",
        "os.open(path, flags)",
        "shutil.rmtree(path)",
        "torch.save(model, path)",
        "tempfile.mkstemp()",
        "np.memmap(path, dtype='u1')",
        "np.memmap(path, mode='r+')",
        "safetensors.torch.save_file(tensors, path)",
    ],
)
def test_writing_calls_are_detected(source: str) -> None:
    assert len(writes(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "path.open('rb')",
        "text.replace(a, b)",
        "files.rename(a, b)",
        "path.read_bytes()",
        "os.open(path, os.O_RDONLY | extra)",
        "runs.save(x)",
        "np.savez(in_memory, **arrays)",
        "shutil.get_terminal_size()",
        "np.memmap(p, mode='r')",
    ],
)
def test_reading_calls_are_not_flagged(source: str) -> None:
    assert writes(source) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_files_module_writes(path: Path) -> None:
    found = writes(path.read_text(encoding="utf-8"))
    assert bool(found) == (path == PACKAGE / "files.py"), found
