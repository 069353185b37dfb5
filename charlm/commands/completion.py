"""Shell completion of runs, checkpoints, texts and presets. Imports neither torch nor numpy, to answer immediately.

The shells list files and folders themselves, since they know about quotes and ``~``. Where names are offered too, this
module gives the names, and the scripts that it gives the shells put both together.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete, add_completion_class

from charlm.config import presets_folder
from charlm.corpus.download import CORPORA, DOWNLOAD_FOLDER

RUNS = "checkpoints"  # the folder of runs, unless --out names another
STEP = re.compile(r"step-(\d{8,})")  # the name of a checkpoint
MANIFEST = "manifest.json"  # what every checkpoint contains
RUN_FILES = ("config.toml", "corpus.json")  # what a run contains before its first checkpoint
BUILT_IN = "python"
DEVICES = ("auto", "cpu", "cuda", "mps")

Items = list[CompletionItem[Any]]
Completer = Callable[[click.Context, click.Parameter, str], Items]


def words(*known: str) -> Completer:
    """Offers a few words."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        return _starting(incomplete, known)

    return complete


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers folders."""
    return _listed_by_shell("dir", incomplete)


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers the runs and checkpoints in a folder, or folders where there are none.

    Before a folder is typed, those in the usual place are offered too.
    """
    found = list(_runs_at(incomplete))
    if "/" not in incomplete:
        found += [path for path in _runs_at(f"{RUNS}/") if path.startswith(incomplete)]
    return _paths(found) or folders(ctx, param, incomplete)


def runs_or_auto(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers what ``--resume`` accepts."""
    found = runs(ctx, param, incomplete)
    return [*_starting(incomplete, ["auto"]), *found]


def checkpoints(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers ``best``, ``latest`` and the steps that the run already typed has."""
    steps = []
    for run in ctx.args[:1]:  # where click leaves arguments when the value of an option is lacking
        names = _folders_in(os.path.expanduser(run))  # noqa: PTH111  # leaves ~nobody unchanged
        steps = [int(found[1]) for name in names if (found := STEP.fullmatch(name))]
    return _starting(incomplete, ["best", "latest", *map(str, sorted(steps))])


def texts(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers files and folders, and the names of corpora."""
    names = [*corpora(ctx, param, incomplete)]
    if BUILT_IN.startswith(incomplete):
        names.append(CompletionItem(BUILT_IN, help="the source code of Python's standard library"))
    for item in names:
        if item.value in CORPORA and not (DOWNLOAD_FOLDER / f"{item.value}.txt").exists():
            item.help = f"not downloaded yet: charlm corpus get {item.value}"
    return [*names, *_listed_by_shell("file", incomplete)]


def corpora(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers the corpora that can be downloaded."""
    return [
        CompletionItem(name, help=corpus.description) for name, corpus in CORPORA.items() if name.startswith(incomplete)
    ]


def configurations(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Offers presets and TOML files; where there are none, files, to get to other folders."""
    presets = sorted(path.stem for path in presets_folder().glob("*.toml"))
    folder, prefix = _parted(incomplete)
    files = [folder + name for name in _files_in(folder) if name.endswith(".toml") and name.startswith(prefix)]
    return [*_starting(incomplete, presets), *_paths(files)] or _listed_by_shell("file", incomplete)


def _listed_by_shell(kind: str, incomplete: str) -> Items:
    return [CompletionItem(incomplete if incomplete.isprintable() else "", type=kind)]


def _starting(incomplete: str, known: Iterable[str]) -> Items:
    return [CompletionItem(word) for word in known if word.startswith(incomplete)]


def _paths(found: Iterable[str]) -> Items:
    """Paths for the shell to quote if needed, without those that do not fit on a command line."""
    return [CompletionItem(path, is_path=True) for path in dict.fromkeys(found) if path.isprintable()]


def _parted(incomplete: str) -> tuple[str, str]:
    """The folder as it was typed, with its slash, and the beginning of a name in it."""
    folder, slash, prefix = incomplete.rpartition("/")
    return folder + slash, prefix


def _runs_at(incomplete: str) -> Iterator[str]:
    folder, prefix = _parted(incomplete)
    for name in _folders_in(folder):
        if name.startswith(prefix) and (prefix or not name.startswith(".")) and _is_run_or_checkpoint(folder + name):
            yield folder + name


def _is_run_or_checkpoint(path: str) -> bool:
    inside = {*_folders_in(path), *_files_in(path)}
    return MANIFEST in inside or inside.issuperset(RUN_FILES) or any(map(STEP.fullmatch, inside))


def _folders_in(folder: str) -> list[str]:
    return _names_in(folder, os.DirEntry.is_dir)


def _files_in(folder: str) -> list[str]:
    return _names_in(folder, os.DirEntry.is_file)


def _names_in(folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """In their order; none where the folder cannot be read."""
    try:
        with os.scandir(folder or ".") as entries:
            return sorted(entry.name for entry in entries if wanted(entry))
    except (OSError, ValueError):
        return []


class Bash(BashComplete):
    """Bash, which with click's own script offers either names or files; and which takes ``--name=value`` apart."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' type value response
    COMPREPLY=()
    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1")
    while IFS=',' read -r type value; do
        case $type in
            plain) COMPREPLY+=("$value") ;;
            path) COMPREPLY+=("$value"); compopt -o filenames ;;
            dir) if (( ${#COMPREPLY[@]} )); then compopt -o plusdirs; else compopt -o dirnames; fi ;;
            file)
                if (( ${#COMPREPLY[@]} )); then
                    while read -r value; do COMPREPLY+=("$value"); done < <(compgen -f -- "$value")
                    compopt -o filenames
                else
                    compopt -o default
                fi ;;
        esac
    done <<< "$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        before = ["", *args]
        return [word for word, last in zip(args, before, strict=False) if word != "=" or last[:2] != "--"], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{'path' if item.is_path else item.type},{item.value}"


def _with_option(items: Items, incomplete: str) -> Items:
    """Completions of ``--name=value`` as that one word, which is what zsh and fish complete."""
    option, equals, value = incomplete.partition("=")
    if not (equals and option.startswith("--")):
        return items
    folder, prefix = _parted(value)
    found = []
    for item in items:
        listed = [item.value]
        if item.type in ("dir", "file"):
            inside = [f"{name}/" for name in _folders_in(folder)] + _files_in(folder) * (item.type == "file")
            listed = [folder + name for name in inside if name.startswith(prefix) and name.isprintable()]
        found += [CompletionItem(option + equals + value, help=item.help) for value in listed]
    return found


class Zsh(ZshComplete):
    def get_completions(self, args: list[str], incomplete: str) -> Items:
        return _with_option(super().get_completions(args, incomplete), incomplete)


class Fish(FishComplete):
    # click's own script drops what follows a comma
    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')

    def get_completions(self, args: list[str], incomplete: str) -> Items:
        return _with_option(super().get_completions(args, incomplete), incomplete)


for shell in (Bash, Zsh, Fish):
    add_completion_class(shell)
