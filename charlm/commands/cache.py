"""``charlm cache``: the cache of encoded texts."""

from pathlib import Path

import click

from charlm.commands.layout import Command
from charlm.commands.options import cache_option, common_options
from charlm.console import console


@click.group("cache")
def command() -> None:
    """Clear the cache of encoded texts.

    \b
    charlm cache clear
    """


@command.command("clear", cls=Command, short_help="Clear the cache of encoded texts.")
@cache_option
@common_options
def clear(cache_dir: Path | None, quiet: bool) -> None:
    """Clear the cache of encoded texts. They are rebuilt when needed; your texts and runs are not touched.

    \b
    charlm cache clear
    charlm cache clear --cache-dir /tmp/charlm
    """
    from charlm.corpus import cache

    folder = cache_dir or cache.default_folder()
    freed_bytes = cache.clear(folder)
    if not quiet:
        console.print_line(f"Freed {freed_bytes / 1e6:,.1f} MB in {folder}.")
