"""``charlm sample``."""

import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from charlm.commands.layout import Command, option
from charlm.commands.options import (
    checkpoint_option,
    common_options,
    device_option,
    given,
    integer_option,
    json_option,
    run_argument,
    settings_options,
    threads_option,
)
from charlm.commands.terminal import print_json, standard_output
from charlm.config import SampleSettings, resolve
from charlm.console import console
from charlm.errors import CharlmError, UsageError
from charlm.generation.terminal import Output


@click.command("sample", cls=Command)
@run_argument
@option("--prompt-file", type=click.Path(), help="Read the prompt from this file; - for standard input.")
@option("--echo/--no-echo", default=True, help="Print the prompt before the generated text.  [default: on]")
@integer_option(
    "--next-probabilities",
    1,
    "Print the K likeliest next characters with their probabilities, instead of text.",
    metavar="K",
)
@option("--interactive", is_flag=True, help="Read prompts line by line; type :help for commands.")
@checkpoint_option
@threads_option
@device_option
@json_option
@common_options
@settings_options({"Sampling": SampleSettings})
@click.pass_context
def command(
    context: click.Context,
    /,
    run: Path,
    prompt_file: str | None,
    echo: bool,
    next_probabilities: int | None,
    interactive: bool,
    checkpoint: str,
    threads: int,
    device: str,
    json: bool,
    quiet: bool,
    **options: object,
) -> None:
    """Generate text with the model in RUN.

    Text is streamed to standard output. Multiple samples are generated in parallel: the first is streamed, the others
    are printed when they are complete, with separators on standard error.

    Filters apply in this order: --ban and --allow, --temperature, --top-k, --top-p, --min-p. --json prints one object
    per sample: text, seed, log-probability in nats under the filtered distribution, bits per character (for byte-level
    models, per byte), and why it ended.

    \b
    charlm sample checkpoints/play
    charlm sample checkpoints/play --prompt "ROMEO:" --temperature 0.7 --length 200
    charlm sample checkpoints/play --prompt-file scene.txt --no-echo --unknown skip
    charlm sample checkpoints/play --top-k 10 --top-p 0.9 --min-p 0.05 --seed 42 --precision fp32
    charlm sample checkpoints/play --ban "0123456789" --stop "ACT" --stop "SCENE"
    charlm sample checkpoints/play --allow "abcdefghijklmnopqrstuvwxyz " --stop-at-newline
    charlm sample checkpoints/play --num-samples 64 --json
    charlm sample checkpoints/play --prompt "To be, or not to b" --next-probabilities 5
    charlm sample checkpoints/play --checkpoint latest --interactive --no-echo
    """
    settings = resolve(SampleSettings, given(context, SampleSettings))
    if prompt_file is not None and settings.prompt:
        raise UsageError("--prompt and --prompt-file cannot be used together.", "Use only one of them.")
    if interactive:
        others = {
            "--json": json,
            "--next-probabilities": next_probabilities,
            "--prompt-file": prompt_file,
            "--num-samples": settings.num_samples > 1,
        }
        if excluded := ", ".join(name for name, value in others.items() if value):
            raise UsageError(f"--interactive cannot be used with {excluded}.", f"Remove --interactive or {excluded}.")
    from charlm import runs
    from charlm.generation.interactive import Conversation
    from charlm.generation.streams import Sampler
    from charlm.model.device import choose_device, prepare_process

    place = choose_device(device)
    prepare_process(threads)
    chosen = runs.load_model(run, checkpoint)
    unit = chosen.settings.unit
    if prompt_file is not None:
        settings = settings.model_copy(update={"prompt": _read(prompt_file, unit)})
    model = chosen.build_model(place)
    with standard_output():
        if interactive:
            _converse(Conversation(model, chosen.vocabulary, settings, chosen.settings), echo)
            return
        sampler = Sampler(model, chosen.vocabulary, settings, chosen.settings)
        if next_probabilities:
            _show_next(sampler.next_characters(next_probabilities), unit, json)
        elif json:
            for sample in sampler.samples():
                print_json(_object(sample, settings.prompt, unit), indent=None)
        else:
            _write(sampler, settings.prompt if echo else "", quiet)


def _read(name: str, unit: str) -> str:
    """The prompt in a file: UTF-8, perhaps with a byte order mark; for a byte-level model, any bytes."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8", "surrogateescape") if unit == "byte" else data.decode().removeprefix("\ufeff")
    except OSError as error:
        raise UsageError(f"--prompt-file {name}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise CharlmError(
            f"--prompt-file {name}: invalid UTF-8 at byte {error.start:,}.", "Convert the file to UTF-8."
        ) from None


def _write(sampler: Any, prompt: str, quiet: bool) -> None:
    """The first sample as it is made, then the others."""
    output, samples = Output(sys.stdout), sampler.begin()

    def begin(sample: Any) -> None:
        if len(samples) > 1 and not quiet:
            console.say(f"--- {sample.index + 1} of {len(samples)}, seed {sample.seed}")
        output.write(prompt)

    begin(samples[0])
    for _ in sampler.write(samples):
        output.write(samples[0].newest)
    output.write("\n")
    for sample in samples[1:]:
        begin(sample)
        output.write(sample.text + "\n")


def _object(sample: Any, prompt: str, unit: str) -> dict[str, Any]:
    nats = sample.log_probability_nats
    return {
        "index": sample.index,
        "seed": sample.seed,
        "prompt": prompt,
        "text": sample.text,
        f"{unit}s": len(sample.characters),
        "log_probability_nats": nats,
        f"bits_per_{unit}": -nats / math.log(2) / len(sample.characters) if sample.characters else None,
        "finish_reason": sample.finish_reason,
    }


def _show_next(characters: list[tuple[str, float]], unit: str, as_json: bool) -> None:
    if unit == "byte":
        found: list[tuple[str | int, float]] = [(ord(byte), probability) for byte, probability in characters]
    else:
        found = list(characters)
    if as_json:
        print_json([{unit: what, "probability": probability} for what, probability in found])
        return
    output = Output(sys.stdout)
    for what, probability in found:
        output.write(f"{probability:8.4f}  {what!r}\n")


def _converse(conversation: Any, echo: bool) -> None:
    output = Output(sys.stdout)
    if conversation.prompt:
        _answer(output, conversation.prompt if echo else "", conversation.again())
    for line in _lines():
        is_prompt = not line.startswith(":")
        _answer(output, line if echo and is_prompt else "", conversation.answer(line))
        if conversation.ended:
            return


def _answer(output: Output, prompt: str, pieces: Iterator[str]) -> None:
    """One answer, a line of its own; nothing where there is nothing to say."""
    begun = False
    try:
        for piece in pieces:
            output.write(piece if begun else prompt + piece)
            begun = True
        if begun:
            output.write("\n")
    except CharlmError as error:
        console.say(str(error))
    except KeyboardInterrupt:  # ends this text, not the conversation
        output.write("\n")


def _lines() -> Iterator[str]:
    """What is typed, line by line, with a history where the system has one; or what comes through a pipe."""
    if not sys.stdin.isatty():
        yield from (line.removesuffix("\n") for line in sys.stdin)
        return
    with suppress(ImportError):  # there is none on Windows
        import readline  # noqa: F401  # input() uses it
    console.say("Type a prompt and press Enter. :help lists commands, Ctrl-D quits.")
    while True:
        try:
            yield input("> ")
        except EOFError:
            console.say("")
            return
