"""How the modules of charlm stand to each other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import charlm

PACKAGE = Path(charlm.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))

# From top to bottom: a room may import from those below it, and from no other
ORDER = (
    {"__main__"},
    {"commands"},
    {"api"},
    {"benchmark"},
    {"training"},
    {"generation", "evaluation", "reports"},
    {"runs"},
    {"texts"},
    {"checkpoint"},
    {"model"},
    {"corpus", "progress"},
    {"config"},
    {"reading"},
    {"files", "machine", "console", "records"},
    {"errors"},
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path)]
    return {name[1] for name in names if name[0] == "charlm" and name[1:] != ["__version__"]}


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room(path) for path in MODULES} - {"__init__"} == set(LEVELS)


@each_module
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    level = LEVELS.get(here, -1)  # charlm/__init__.py is above all
    upwards = {other for other in rooms_imported(path) if other != here and LEVELS[other] <= level}
    assert upwards == set()


@each_module
def test_only_commands_know_click(path: Path) -> None:
    if room(path) != "commands":
        assert "click" not in {name.split(".")[0] for name in imports(path)}


@each_module
def test_no_module_pickles_or_needs_posix(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)}.isdisjoint(
        {"pickle", "shelve", "marshal", "dill", "joblib", "fcntl", "pwd", "grp", "resource", "termios"}
    )
    assert {"torch.load", "torch.save"}.isdisjoint(
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    )


@pytest.mark.parametrize(
    "module", ["charlm", "charlm.commands", "charlm.config", "charlm.errors", "charlm.files", "charlm.machine"]
)
def test_importing_it_imports_neither_torch_nor_numpy(module: str) -> None:
    code = f"import sys, {module}; print(*({{'torch', 'numpy'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == []


@each_module
def test_a_module_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@each_module
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
