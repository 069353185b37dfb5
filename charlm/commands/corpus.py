"""``charlm corpus``: what is done to texts before anything is trained on them."""

from pathlib import Path

import click
from tqdm import tqdm

from charlm.commands.options import common_options, standard_output
from charlm.corpus import download


@click.group("corpus")
def command() -> None:
    """Get, inspect and clean up texts.

    \b
    charlm corpus get tinyshakespeare
    """


class KnownCorpora(click.Command):
    """A command whose help lists the corpora that can be had."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Corpora"):
            formatter.write_dl(
                [
                    (name, f"{corpus.description}; {corpus.size_bytes / 1e6:,.1f} MB; {corpus.licence}")
                    for name, corpus in download.CORPORA.items()
                ]
            )


@command.command("get", cls=KnownCorpora, short_help="Download a well-known corpus, and verify it.")
@click.argument("name")
@click.option(
    "--folder", type=click.Path(path_type=Path), default="data", help="Where NAME.txt is put.  [default: data]"
)
@common_options
def get(name: str, folder: Path, quiet: bool) -> None:
    """Download the well-known corpus NAME and verify it by its checksum; its path goes to standard output.

    A text that is there already is verified, and never overwritten.

    \b
    charlm corpus get tinyshakespeare
    charlm train $(charlm corpus get warandpeace)
    """
    path = download.place(name, folder)
    if download.is_there(name, folder):
        if not quiet:
            click.echo(f"{path} is there already, and is right.", err=True)
    else:
        size_bytes = download.CORPORA[name].size_bytes
        with tqdm(total=size_bytes, desc=name, unit="B", unit_scale=True, disable=quiet or None, leave=False) as bar:
            download.get(name, folder, bar.update)
    with standard_output():
        click.echo(path)
