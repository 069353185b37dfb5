"""Layout of help texts: arguments first, then options under headings, independent of click's version."""

import os
from functools import partial
from typing import Any

import click
from click.core import ParameterSource


class Argument(click.Argument):
    """A positional argument with a line of help. Not click's own ``help``, which only some versions have and print."""

    def __init__(self, *args: Any, description: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.description = description


class Option(click.Option):
    """An option that belongs under a heading of the help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The origin of a bad value: the option's flag, or the environment variable."""
        if ctx is not None and ctx.get_parameter_source(self.name or "") is not ParameterSource.COMMANDLINE:
            variable = f"{ctx.auto_envvar_prefix}_{self.name}".upper()
            if variable in os.environ:
                return variable
        return super().get_error_hint(ctx)


class Command(click.Command):
    """A command whose help groups arguments and options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, Argument):
                name = (parameter.name or "").upper()
                sections.setdefault("Arguments", []).append((name, parameter.description))
        sections["Options"] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line. An error names this command as the one whose help to read."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


argument = partial(click.argument, cls=Argument)
option = partial(click.option, cls=Option)
