"""Interactive sampling: each line is a prompt or a command that changes settings. The caller reads and prints."""

import re
from collections.abc import Iterator

from charlm.config import ALLOWS_ESCAPES, CorpusSettings, SampleSettings, SettingsSource, SourceKind, resolve
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError, UsageError, did_you_mean
from charlm.generation.escaping import decode_escapes, encode_escapes
from charlm.generation.sampler import NO_NORMALIZATION, Sampler
from charlm.model.language_model import CharacterModel
from charlm.model.stepper import StepperPool

HELP = """\
Each line is a prompt for the model to continue. An empty line starts a new text. Commands:
  :NAME VALUE   set an option, for example :temperature 0.5, :length 200, :stop-at-newline on;
                in :ban, :allow and :stop, spaces are significant and \\n is a newline
  :settings     show the current options
  :newline TEXT begin the next prompt with TEXT and a newline; the next line continues it
  :again        repeat the last prompt, with a new seed if the seed is random
  :help         show this help
  :quit         quit (or press Ctrl-D)"""
EDITABLE_SETTINGS = tuple(name for name in SampleSettings.model_fields if name not in ("prompt", "num_samples"))


class InteractiveSession:
    """Answers each line with text; changed settings persist between lines."""

    def __init__(
        self,
        model: CharacterModel,
        vocabulary: Vocabulary,
        settings: SampleSettings,
        corpus: CorpusSettings = NO_NORMALIZATION,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.settings = settings
        self.corpus = corpus
        self.stepper_pool = StepperPool(model)
        self.prompt = settings.prompt
        self.begun = ""  # of the next prompt: lines that :newline gave
        self.is_finished = False

    def answer(self, line: str) -> Iterator[str | bytes]:
        """Yield the answer to a line as it is generated. Raises ``CharlmError`` if the line is wrong."""
        if self.vocabulary.unit == "character" and (stray := re.search("[\udc80-\udcff]", line)):
            byte = ord(stray[0]) - 0xDC00
            raise TextError(f"Input that cannot be decoded: byte 0x{byte:02x}.", "Use the encoding of your terminal.")
        if not line.startswith(":"):
            self.prompt, self.begun = self.begun + line, ""
            yield from self.repeat()
            return
        name, _, value = line[1:].lstrip().partition(" ")
        name = name.strip().replace("-", "_")
        if name == "again":
            yield from self.repeat()
        elif name == "newline":
            self.begun += value + "\n"
        elif name in ("quit", "exit", "q"):
            self.is_finished = True
        elif name == "help":
            yield HELP
        elif name == "settings":
            yield "\n".join(_list_commands(self.settings))
        elif name in EDITABLE_SETTINGS:
            changed = {**self.settings.model_dump(), name: _parse_setting(name, value)}
            self.settings = resolve(SampleSettings, [SettingsSource("", changed, SourceKind.INTERACTIVE)])
        else:
            known = [*EDITABLE_SETTINGS, "again", "newline", "help", "settings", "quit"]
            raise UsageError(f":{name}: no such command.{did_you_mean(name, known)}", "Type :help for a list.")

    def repeat(self) -> Iterator[str | bytes]:
        """Yield a continuation of the last prompt (initially that of the settings); bytes for a byte-level model."""
        settings = self.settings.model_copy(update={"prompt": self.prompt})
        sampler = Sampler(self.model, self.vocabulary, settings, self.corpus, self.stepper_pool)
        yield from sampler.stream_bytes() if self.vocabulary.unit == "byte" else sampler.stream()


def _list_commands(settings: SampleSettings) -> Iterator[str]:
    """The commands that set these settings."""
    for name in EDITABLE_SETTINGS:
        values = getattr(settings, name)
        for value in values if isinstance(values, tuple) else (values,):
            yield f":{name.replace('_', '-')} {_format_setting(value)}"


def _format_setting(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return encode_escapes(value) if isinstance(value, str) else str(value)


def _parse_setting(name: str, text: str) -> object:
    """Convert typed text to the setting's type; text that cannot be converted is kept, and is then rejected."""
    setting = SampleSettings.model_fields[name]
    default = setting.default
    text = decode_escapes(text) if setting.json_schema_extra == ALLOWS_ESCAPES else text.strip()
    if isinstance(default, tuple):
        return (text,) if text else ()
    if isinstance(default, bool):
        return {"on": True, "off": False}.get(text, text)
    if isinstance(default, str) and name != "seed":
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
