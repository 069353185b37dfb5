"""``charlm sample``."""

import base64
import io
import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from charlm.commands.layout import Command, option
from charlm.commands.options import (
    FilePath,
    checkpoint_option,
    collect_sources,
    common_options,
    device_option,
    integer_option,
    json_option,
    run_argument,
    settings_options,
    threads_option,
)
from charlm.commands.output import Output, output_option
from charlm.commands.prompts import explained
from charlm.config import SampleSettings, resolve
from charlm.console import console, open_bar
from charlm.errors import CharlmError, UsageError

BAR_AFTER_SECONDS = 2.0  # shorter work shows no progress bar


@click.command("sample", cls=Command)
@run_argument
@option("--prompt-file", type=FilePath(), help="Read the prompt, literally, from this file; - for standard input.")
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
@output_option
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
    output: Output,
    quiet: bool,
    **options: object,
) -> None:
    """Generate text with the model in RUN.

    Text is streamed to standard output. Multiple samples are generated in parallel and printed in order as they are
    generated, with separators on standard error; with --stop-at-newline, one per line. A byte-level model writes raw
    bytes to a pipe or a file: the prompt and what was generated, with nothing added; a terminal shows them as text.

    Filters apply in this order: --ban and --allow, --temperature, --top-k, --top-p, --min-p. --json prints one object
    per sample on a line of its own: text, seed, log-probability in nats under the filtered distribution, bits per
    character (for byte-level models, per byte, and the bytes as base64), and why it ended.

    \b
    charlm sample checkpoints/play
    charlm sample checkpoints/play --prompt "ROMEO:" --temperature 0.7 --length 200
    charlm sample checkpoints/play --prompt-file scene.txt --no-echo --unknown skip
    charlm sample checkpoints/play --top-k 10 --top-p 0.9 --min-p 0.05 --seed 42 --precision fp32
    charlm sample checkpoints/play --ban "0123456789" --stop "ACT" --stop "SCENE"
    charlm sample checkpoints/play --allow "abcdefghijklmnopqrstuvwxyz " --stop-at-newline
    charlm sample checkpoints/play --num-samples 64 --json --output samples.jsonl
    charlm sample checkpoints/names --num-samples 20000 --stop-at-newline > names.txt
    charlm sample checkpoints/sounds --length 80000 | aplay      8-bit audio
    charlm sample checkpoints/tunes --prompt-file start.mid --length 4000 --output new.mid
    charlm sample checkpoints/play --prompt "To be, or not to b" --next-probabilities 5
    charlm sample checkpoints/play --checkpoint latest --interactive --no-echo
    """
    settings = resolve(SampleSettings, collect_sources(context, SampleSettings))
    if prompt_file is not None and settings.prompt:
        raise UsageError("--prompt and --prompt-file cannot be used together.", "Use only one of them.")
    if interactive:
        others = {
            "--json": json,
            "--next-probabilities": next_probabilities,
            "--prompt-file": prompt_file,
            "--num-samples": settings.num_samples > 1,
            "--output": output.is_file,
        }
        if excluded := ", ".join(name for name, value in others.items() if value):
            raise UsageError(f"--interactive cannot be used with {excluded}.", f"Remove --interactive or {excluded}.")
    from charlm import runs
    from charlm.generation.interactive import InteractiveSession
    from charlm.generation.sampler import Sampler
    from charlm.model.device import choose_device, configure_torch

    torch_device = choose_device(device)
    configure_torch(threads)
    saved = runs.load_model(run, checkpoint)
    unit = saved.settings.unit
    given_prompt = settings.prompt
    if prompt_file is not None:
        settings = settings.model_copy(update={"prompt": _read_prompt(prompt_file, unit)})
    model = saved.build_model(torch_device)
    if interactive:
        with explained(given_prompt, quiet):
            conversation = InteractiveSession(model, saved.vocabulary, settings, saved.settings)
        _run_interactive(output, conversation, echo)
        return
    with explained(given_prompt, quiet):
        sampler = Sampler(model, saved.vocabulary, settings, saved.settings)
    if next_probabilities:
        _print_next(output, sampler.next_characters(next_probabilities), unit, json)
        return
    with _open_bar(quiet or output.is_terminal, settings, unit) as bar:
        samples = _track_progress(sampler.iter_in_order(), bar, settings.num_samples == 1)
        if json:
            for sample in samples:
                if sample.finish_reason:
                    output.write_json(_sample_record(sample, settings.prompt, unit), indent=None)
        else:
            _print_samples(output, samples, settings, unit, echo, quiet)


def _read_prompt(name: str, unit: str) -> str:
    """Read a prompt file: UTF-8, with or without a byte order mark; for a byte-level model, any bytes."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8", "surrogateescape") if unit == "byte" else data.decode().removeprefix("\ufeff")
    except OSError as error:
        raise UsageError(f"--prompt-file {name}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise CharlmError(
            f"--prompt-file {name}: invalid UTF-8 at byte {error.start:,}.", "Convert the file to UTF-8."
        ) from None


def _open_bar(hidden: bool, settings: SampleSettings, unit: str) -> Any:
    """Progress bar for long generation that is not visible on the terminal: in samples, or in characters of a single
    one.
    """
    one = settings.num_samples == 1
    total, what = (settings.length, unit) if one else (settings.num_samples, "sample")
    options = {"unit": what, "unit_scale": one, "leave": False, "delay": BAR_AFTER_SECONDS}
    return open_bar(hidden, total=total, desc="sampling", **options)


def _track_progress(samples: Iterator[Any], bar: Any, one: bool) -> Iterator[Any]:
    """Pass the growing samples through, and advance the progress bar."""
    for sample in samples:
        yield sample
        bar.update(len(sample.characters) - bar.n if one else bool(sample.finish_reason))


def _print_samples(
    output: Output, samples: Iterator[Any], settings: SampleSettings, unit: str, echo: bool, quiet: bool
) -> None:
    """Print each sample as it is generated: bytes unchanged, text with a final newline unless it ends with one."""
    many, raw = settings.num_samples > 1 and not quiet, unit == "byte" and not output.is_terminal
    with_separators = not (output.is_file or settings.stop_at_newline)  # otherwise nothing is printed between samples
    current = None
    for sample in samples:
        if sample is not current:
            current, written = sample, 0
            if many and with_separators:
                console.print_line(f"--- {sample.index + 1} of {settings.num_samples}, seed {sample.seed}")
            elif many and not sample.index:
                console.print_line(f"{settings.num_samples:,} samples, seed {sample.seed}")
            _write_prompt(output, settings.prompt if echo else "", unit)
        if unit == "byte":
            output.write_raw(sample.data_from(written), final=bool(sample.finish_reason))
        else:
            output.write("".join(sample.pieces[written:]))
        written = len(sample.characters)
        if sample.finish_reason and not raw and sample.finish_reason != "newline":
            output.write("\n")


def _write_prompt(output: Output, text: str, unit: str) -> None:
    """Write the prompt unchanged."""
    if unit == "byte":
        output.write_raw(_prompt_bytes(text))
    else:
        output.write(text)


def _prompt_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sample_record(sample: Any, prompt: str, unit: str) -> dict[str, Any]:
    nats = sample.log_probability_nats
    record = {
        "index": sample.index,
        "seed": sample.seed,
        "prompt": _prompt_bytes(prompt).decode("utf-8", "replace") if unit == "byte" else prompt,
        "text": sample.text,
        f"{unit}s": len(sample.characters),
        "log_probability_nats": nats,
        f"bits_per_{unit}": -nats / math.log(2) / len(sample.characters) if sample.characters else None,
        "finish_reason": sample.finish_reason,
    }
    if unit == "byte":  # the text is only a lossy view of the bytes
        record["prompt_base64"] = base64.b64encode(_prompt_bytes(prompt)).decode("ascii")
        record["text_base64"] = base64.b64encode(sample.data).decode("ascii")
    return record


def _print_next(output: Output, characters: list[tuple[str, float]], unit: str, as_json: bool) -> None:
    if unit == "byte":
        rows: list[tuple[str | int, float]] = [(ord(byte), probability) for byte, probability in characters]
    else:
        rows = list(characters)
    if as_json:
        output.write_json([{unit: character, "probability": probability} for character, probability in rows])
        return
    for character, probability in rows:
        output.write(f"{probability:8.4f}  {character!r}\n")


def _run_interactive(output: Output, session: Any, echo: bool) -> None:
    unit = session.vocabulary.unit
    if unit == "byte" and isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")  # a prompt can be any bytes
    if session.prompt:
        _print_answer(output, session.prompt if echo else "", session.repeat(), unit)
    for line in _input_lines():
        is_prompt = not line.startswith(":")
        _print_answer(output, session.begun + line if echo and is_prompt else "", session.answer(line), unit)
        if session.is_finished:
            return


def _print_answer(output: Output, prompt: str, pieces: Iterator[str | bytes], unit: str) -> None:
    """Print one answer on its own line; nothing if it is empty."""
    started = False
    try:
        for piece in pieces:
            if not started:
                _write_prompt(output, prompt, unit)
            started = True
            if isinstance(piece, bytes):
                output.write_raw(piece)
            else:
                output.write(piece)
        if started:
            _end_answer(output, unit)
    except CharlmError as error:
        console.print_line(str(error))
    except KeyboardInterrupt:  # ends this text, not the session
        _end_answer(output, unit)


def _end_answer(output: Output, unit: str) -> None:
    if unit == "byte":
        output.write_raw(b"", final=True)
    output.write("\n")


def _input_lines() -> Iterator[str]:
    """The input lines: typed, with a history if the system supports it, or from a pipe."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what cannot be decoded is told of its line, and ends nothing
    if not sys.stdin.isatty():
        yield from (line.removesuffix("\n") for line in sys.stdin)
        return
    with suppress(ImportError):  # not available on Windows
        import readline  # noqa: F401  # input() uses it
    console.print_line("Type a prompt and press Enter. :help lists commands, Ctrl-D quits.")
    while True:
        try:
            yield input("> ")
        except EOFError:
            console.print_line("")
            return
