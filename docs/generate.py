"""Writes what is derived from the code: ``configs/default.toml`` and ``docs/commands.md``. ``make docs`` runs it."""

import sys
from collections.abc import Iterator
from pathlib import Path

from click import Command, Context, Group

from charlm.commands import group
from charlm.config import SECTIONS, TrainSettings

ROOT = Path(__file__).parent.parent


def default_preset() -> str:
    """Every setting with its default, under the headings of ``charlm train --help``."""
    lines = ["# What charlm train does without --config. Generated from charlm/config by `make docs`; do not edit."]
    defaults = TrainSettings()
    for title, kind in SECTIONS.items():
        lines += ["", f"# {title}"]
        lines += [
            _line(name, getattr(defaults, name), kind.model_fields[name].description) for name in kind.model_fields
        ]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The help texts."""
    settings = {**group.context_settings, "terminal_width": 110, "max_content_width": 110}
    context = Context(group, info_name="charlm", **settings)
    return "\n".join(["# Commands\n\nGenerated from the program by `make docs`.\n", *_helps(group, context)])


FILES = {ROOT / "configs" / "default.toml": default_preset, ROOT / "docs" / "commands.md": commands}


def _line(name: str, value: object, description: str | None) -> str:
    spelled = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    spelled = f'"{value}"' if isinstance(value, str) else spelled
    return f"{f'{name} = {spelled}':<32}# {description}"


def _helps(command: Command, context: Context) -> Iterator[str]:
    """The help of a command, and of those under it."""
    yield f"## `{context.command_path}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    for name in command.list_commands(context) if isinstance(command, Group) else []:
        inner = command.get_command(context, name)
        assert inner is not None
        yield from _helps(inner, Context(inner, info_name=name, parent=context))


if __name__ == "__main__":
    for path, make in FILES.items():
        path.write_text(make(), encoding="utf-8")
        print(path.relative_to(ROOT), file=sys.stderr)
