"""How the modules of charlm stand to each other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
    {"reports"},
    {"generation", "evaluation", "inspection", "summary"},
    {"runs"},
    {"run_corpus"},
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


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def layers_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path)]
    return {name[1] for name in names if name[0] == "charlm" and name[1:] != ["__version__"]}


def test_every_module_has_a_layer() -> None:
    assert {layer_of(path) for path in MODULES} - {"__init__"} == set(LEVELS)


@each_module
def test_imports_follow_layers(path: Path) -> None:
    here = layer_of(path)
    level = LEVELS.get(here, -1)  # charlm/__init__.py is above all
    upwards = {other for other in layers_imported(path) if other != here and LEVELS[other] <= level}
    assert upwards == set()


def imports_when_run(path: Path) -> set[str]:
    """The modules of charlm that a module imports when it runs: not for its types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = {".".join(("charlm", *each.relative_to(PACKAGE).with_suffix("").parts)) for each in MODULES}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & names


def test_imports_have_no_cycles() -> None:
    graph = {
        ".".join(("charlm", *path.relative_to(PACKAGE).with_suffix("").parts)): imports_when_run(path)
        for path in MODULES
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_corpus_does_not_import_analysis() -> None:
    analysis = PACKAGE / "corpus" / "analysis"
    others = [path for path in MODULES if layer_of(path) == "corpus" and analysis not in path.parents]
    assert not [path for path in others if any(name.startswith("charlm.corpus.analysis") for name in imports(path))]


@each_module
def test_only_the_board_has_a_writer_of_tensorboard(path: Path) -> None:
    """What else writes files is in tests/test_files.py."""
    assert ("SummaryWriter" in path.read_text(encoding="utf-8")) == (path.name == "tensorboard.py")


@each_module
def test_only_commands_know_click(path: Path) -> None:
    if layer_of(path) != "commands":
        assert "click" not in {name.split(".")[0] for name in imports(path)}


@each_module
def test_no_module_uses_pickle_or_requires_posix(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)}.isdisjoint(
        {"pickle", "shelve", "marshal", "dill", "joblib", "fcntl", "pwd", "grp", "resource", "termios"}
    )
    assert {"torch.load", "torch.save"}.isdisjoint(
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    )


@pytest.mark.parametrize(
    "module", ["charlm", "charlm.commands", "charlm.config", "charlm.errors", "charlm.files", "charlm.machine"]
)
def test_light_modules_do_not_import_torch_or_numpy(module: str) -> None:
    code = f"import sys, {module}; print(*({{'torch', 'numpy'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == []


@each_module
def test_modules_have_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@each_module
def test_modules_have_docstrings(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
