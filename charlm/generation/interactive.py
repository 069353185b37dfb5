"""Prompt in, continuation out, with settings that are changed in between; reading and printing is the caller's part."""

from collections.abc import Iterator

from charlm.config import ESCAPES, CorpusSettings, SampleSettings, resolve
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError, did_you_mean
from charlm.generation.streams import AS_IT_IS, Sampler
from charlm.generation.terminal import unescaped
from charlm.model.language_model import CharacterModel
from charlm.model.stepper import Steppers

HELP = """\
Each line is a prompt for the model to continue. An empty line starts a new text. Commands:
  :NAME VALUE   set an option, for example :temperature 0.5, :length 200, :stop-at-line on;
                in :ban, :allow and :stop, spaces are significant and \\n is a newline
  :settings     show the current options
  :again        repeat the last prompt, with a new seed if the seed is random
  :help         show this help
  :quit         quit (or press Ctrl-D)"""
CHANGEABLE = tuple(name for name in SampleSettings.model_fields if name not in ("prompt", "num_samples"))


class Conversation:
    """Answers lines with text. Raises nothing that a line could cause: what is wrong with it is the answer."""

    def __init__(
        self,
        model: CharacterModel,
        vocabulary: Vocabulary,
        settings: SampleSettings,
        corpus: CorpusSettings = AS_IT_IS,
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.settings = settings
        self.corpus = corpus
        self.steppers = Steppers(model)
        self.prompt = settings.prompt
        self.ended = False

    def answer(self, line: str) -> Iterator[str]:
        """The answer to a line, piece by piece as it is made. Raises ``CharlmError`` if it cannot be answered."""
        if not line.startswith(":"):
            self.prompt = line
            yield from self.again()
            return
        name, _, value = line[1:].lstrip().partition(" ")
        name = name.strip().replace("-", "_")
        if name == "again":
            yield from self.again()
        elif name in ("quit", "exit", "q"):
            self.ended = True
        elif name == "help":
            yield HELP
        elif name == "settings":
            values = self.settings.model_dump(include=set(CHANGEABLE))
            yield ", ".join(f"{name} {value!r}" for name, value in values.items())
        elif name in CHANGEABLE:
            changed = {**self.settings.model_dump(), name: _value(name, value)}
            self.settings = resolve(SampleSettings, [(f":{name} {value}", changed)])
        else:
            known = [*CHANGEABLE, "again", "help", "settings", "quit"]
            raise UsageError(f":{name}: no such command.{did_you_mean(name, known)}", "Type :help for a list.")

    def again(self) -> Iterator[str]:
        """A continuation of the last prompt, which to begin with is that of the settings."""
        settings = self.settings.model_copy(update={"prompt": self.prompt})
        yield from Sampler(self.model, self.vocabulary, settings, self.corpus, self.steppers).stream()


def _value(name: str, text: str) -> object:
    """What was typed, as the type that the setting has; what is no such thing stays text, and is refused as such."""
    setting = SampleSettings.model_fields[name]
    default = setting.default
    text = unescaped(text) if setting.json_schema_extra == ESCAPES else text.strip()
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
