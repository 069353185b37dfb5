"""Writes what is derived from the code: ``configs/default.toml`` and ``docs/commands.md``. ``make docs`` runs it."""

import sys
from pathlib import Path

from click import Context

from charlm.commands import COMMANDS, group
from charlm.config import SECTIONS, TrainSettings

ROOT = Path(__file__).parent.parent


def default_preset() -> str:
    """Every setting with its default, under the headings of ``charlm train --help``."""
    lines = ["# What charlm train does without --config. Generated from charlm/config.py by `make docs`; do not edit."]
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
    parts = ["# Commands\n\nGenerated from the program by `make docs`.\n", _help("charlm", group.get_help(context))]
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        inner = Context(command, info_name=name, parent=context)
        parts.append(_help(f"charlm {name}", command.get_help(inner)))
    return "\n".join(parts)


FILES = {ROOT / "configs" / "default.toml": default_preset, ROOT / "docs" / "commands.md": commands}


def _line(name: str, value: object, description: str | None) -> str:
    spelled = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    spelled = f'"{value}"' if isinstance(value, str) else spelled
    return f"{f'{name} = {spelled}':<32}# {description}"


def _help(name: str, text: str) -> str:
    return f"## `{name}`\n\n```text\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    for path, make in FILES.items():
        path.write_text(make(), encoding="utf-8")
        print(path.relative_to(ROOT), file=sys.stderr)
