"""Every setting once: its name, type, default, range and one line of help.

The command-line options, the TOML keys, the presets and what a checkpoint records are all derived from these classes.
"Off" is a value (0 or a word), since TOML has no null and resolved settings must read back the same.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.config import JsonDict

from charlm.errors import UsageError, did_you_mean

COMMAND_LINE = "command line"
ESCAPES: JsonDict = {"escapes": True}  # of a setting: where people type it, \n stands for the end of a line
LENGTHS = ("max_steps", "max_epochs", "max_minutes")

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class Settings(BaseModel):
    """Strict: 2.7 or true is no integer, an unknown key is an error, nothing changes afterwards."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    def problems(self) -> Iterator[str]:
        """What is wrong with several settings together; each class adds its own."""
        yield from ()

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if lines := list(self.problems()):
            raise ValueError("\n".join(lines))
        return self


class CorpusSettings(Settings):
    """How the text is read and divided."""

    unit: Literal["character", "byte"] = Field(
        "character", description="What is predicted; byte: the raw bytes of any file at all."
    )
    encoding: str = Field("utf-8", description="Encoding of the text files.")
    decode_errors: Literal["error", "replace"] = Field(
        "error", description="What becomes of bytes that do not decode; replace: U+FFFD."
    )
    newline: Literal["keep", "lf"] = Field("keep", description="Line ends; lf: all become \\n.")
    normalize: Literal["none", "nfc"] = Field("none", description="Unicode normal form; nfc: e + ´ becomes é.")
    min_count: Count = Field(1, description="Characters that occur less often become one unknown symbol.")
    document_separator: str = Field(
        "",
        description="Text that ends a document: the next one starts with a fresh state. \\n: documents of one line.",
        json_schema_extra=ESCAPES,
    )
    document_per_file: bool = Field(False, description="Each file is a document of its own.")
    validation_fraction: Fraction | Literal["auto"] = Field(
        "auto", description="Part of the text to validate on; auto: a tenth, but at most 1,000,000 characters."
    )
    test_fraction: Fraction = Field(0.0, description="Part of the text to keep aside, at its end, for a last test.")

    @field_validator("document_separator")
    @classmethod
    def _is_text(cls, separator: str) -> str:
        if not separator.isprintable():  # else it is
            separator.encode()  # raises a ValueError for what a shell passed on that is no UTF-8
        return separator

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        validation = 0.1 if self.validation_fraction == "auto" else self.validation_fraction
        if validation + self.test_fraction >= 1:
            yield "validation_fraction and test_fraction together must be below 1."
        if self.unit == "byte":
            of_characters = ("encoding", "decode_errors", "newline", "normalize", "min_count")
            for name in of_characters:
                if getattr(self, name) != CorpusSettings.model_fields[name].default:
                    yield f"{name} is of characters, not of bytes: leave it away with unit byte."


class ModelSettings(Settings):
    """The shape of the network."""

    cell: Literal["lstm", "gru", "rnn"] = Field("lstm", description="The recurrent cell.")
    embedding_size: Count = Field(64, description="Numbers that stand for a character at the input.")
    hidden_size: Count = Field(384, description="Units of a layer.")
    num_layers: Count = Field(2, description="Recurrent layers, one on another.")
    dropout: Fraction = Field(0.2, description="Part of each layer's output that is dropped in training.")
    tie_weights: bool = Field(False, description="One matrix for embedding and output.")

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.tie_weights and self.embedding_size != self.hidden_size:
            yield f"tie_weights needs embedding_size = hidden_size (now {self.embedding_size} and {self.hidden_size})."


class WindowSettings(Settings):
    """The size of what one forward pass reads."""

    batch_size: Count = Field(32, description="Lanes: stretches of text read side by side.")
    sequence_length: Count = Field(64, description="Characters through which gradients flow back.")


class OptimizationSettings(Settings):
    """How the network learns, and for how long."""

    accumulation_steps: Count = Field(1, description="Windows whose gradients make one step.")
    learning_rate: float = Field(4e-3, gt=0, le=10, description="Highest learning rate (AdamW).")
    warmup_steps: int = Field(50, ge=0, description="Steps over which the learning rate rises.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Learning rate after the warm-up.")
    weight_decay: float = Field(0.05, ge=0, le=10, description="Decoupled weight decay of the matrices.")
    beta1: Fraction = Field(0.9, description="Decay of AdamW's mean of gradients.")
    beta2: Fraction = Field(0.99, description="Decay of AdamW's mean of squared gradients.")
    gradient_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0: no clipping.")
    max_steps: int = Field(3200, ge=0, description="Length in steps; 0: not limited by steps.")
    max_epochs: float = Field(0.0, ge=0, description="Length in passes over the training text; 0: not limited.")
    max_minutes: float = Field(0.0, ge=0, description="Length in minutes of training time; 0: not limited.")
    patience: int = Field(0, ge=0, description="Stop after so many evaluations without a better one; 0: never.")
    seed: int = Field(1, ge=0, lt=2**63, description="Seed of the initial weights and of dropout.")
    init_from: str = Field("", description="Run or checkpoint to start from: its model, its weights, on this text.")

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not any(getattr(self, name) for name in LENGTHS):
            yield "one of max_steps, max_epochs and max_minutes must be above 0."


class RunSettings(Settings):
    """What happens around the learning."""

    log_every: Count = Field(10, description="Steps between two log points.")
    evaluate_every: Count | Literal["auto"] = Field(
        "auto", description="Steps between two evaluations; auto: so many that they take under a tenth of the time."
    )
    save_every: float = Field(5.0, gt=0, description="Most minutes of training between two checkpoints.")
    keep: int = Field(2, ge=0, description="Checkpoints kept beside the best and the newest.")
    sample_length: int = Field(200, ge=0, description="Characters of the samples shown while training; 0: none.")


class DeviceSettings(Settings):
    """Where and how the arithmetic is done."""

    device: str = Field("auto", description="auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, mps.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic of the matrices; auto: bf16 where the processor is faster with it."
    )
    threads: int = Field(0, ge=0, description="Threads of the processor; 0: one a core.")


class TrainSettings(DeviceSettings, RunSettings, OptimizationSettings, WindowSettings, ModelSettings, CorpusSettings):
    """All settings of a training. Flat: a key of TOML is an option's name with underscores."""


SECTIONS: Mapping[str, type[Settings]] = {
    "Text": CorpusSettings,
    "Model": ModelSettings,
    "Windows": WindowSettings,
    "Learning": OptimizationSettings,
    "Run": RunSettings,
    "Device": DeviceSettings,
}


class BenchSettings(DeviceSettings, WindowSettings, ModelSettings):
    """What ``charlm bench`` measures."""


class SampleSettings(Settings):
    """How text is generated."""

    prompt: str = Field("", description="Text to go on from.")
    unknown: Literal["error", "skip", "replace"] = Field(
        "error", description="Characters of the prompt that the model does not know; replace: its unknown symbol."
    )
    length: int = Field(500, ge=0, description="Most characters to generate.")
    temperature: float = Field(0.8, ge=0, description="Below 1 is safer, above 1 wilder; 0: always the most probable.")
    top_k: int = Field(0, ge=0, description="Draw from the k most probable characters only; 0: from all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the fewest characters that are this probable together; 1: from all."
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="Draw from what is at least this probable beside the most probable; 0: from all."
    )
    ban: str = Field("", description="Characters that are never drawn.", json_schema_extra=ESCAPES)
    allow: str = Field("", description="The only characters drawn; none given: all.", json_schema_extra=ESCAPES)
    stop: Texts = Field((), description="Text that ends a sample; several may be given.", json_schema_extra=ESCAPES)
    stop_at_line: bool = Field(False, description="End a sample with its first line.")
    num_samples: Count = Field(1, description="Texts to generate.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | Literal["random"] = Field(
        "random", description="The same seed gives the same text."
    )
    precision: Literal["auto", "fp32"] = Field(
        "auto", description="Arithmetic of the matrices; auto: int8 where they are large, within 0.001 bits."
    )

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "" in self.stop:
            yield "stop: an empty text would end every sample before it begins."


class DynamicSettings(Settings):
    """How a model goes on learning while it is evaluated."""

    dynamic_learning_rate: float = Field(1e-4, gt=0, le=10, description="Step after each segment.")
    dynamic_decay: Fraction = Field(
        0.001, description="Part of the way back to the trained weights that each step goes."
    )
    dynamic_segment_length: Count = Field(32, description="Characters from one step to the next.")


AnySettings = TypeVar("AnySettings", bound=Settings)
Layer = tuple[str, Mapping[str, Any]]  # where the values come from, as people are told; the values


def resolve(kind: type[AnySettings], layers: Iterable[Layer]) -> AnySettings:
    """Settings of ``kind`` from layers of values, later ones before earlier ones, defaults for the rest.

    A layer that sets one of the three lengths means that length: those of the layers below it end no run.
    Raises ``UsageError`` that lists every problem, each with the place it comes from.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        if any(layer.get(name) for name in LENGTHS):
            values.update(dict.fromkeys(LENGTHS, 0))
        for name, value in layer.items():
            values[name], origins[name] = value, origin
    try:
        return kind(**values)
    except ValidationError as error:
        raise UsageError(_problems(kind, error, origins), "Mend it and try again; --help lists the ranges.") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a flat TOML file. Raises ``UsageError`` if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.", "A preset's name has neither a / nor .toml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}.", "One `name = value` a line.") from None


def to_toml(settings: Settings) -> str:
    return tomli_w.dumps(settings.model_dump())


def presets_folder() -> Path:
    """``configs/``: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "configs"


def preset_path(name: str) -> Path:
    """The file of ``--config NAME``: a path when it has a slash or ends in .toml, else a preset."""
    if "/" in name or "\\" in name or name.endswith(".toml"):
        return Path(name)
    path = presets_folder() / f"{name}.toml"
    if not path.is_file():
        known = sorted(preset.stem for preset in presets_folder().glob("*.toml"))
        raise UsageError(
            f"--config {name}: no such preset.{did_you_mean(name, known)}", f"Presets: {', '.join(known)}."
        )
    return path


def _problems(kind: type[Settings], error: ValidationError, origins: Mapping[str, str]) -> str:
    lines: dict[str, str] = {}
    for problem in error.errors():
        if not problem["loc"]:  # found by a validator of several settings together
            lines[problem["msg"]] = problem["msg"].removeprefix("Value error, ")
            continue
        name = str(problem["loc"][0])
        origin = origins.get(name, "")
        place = f"{origin}: {name}"
        if origin == COMMAND_LINE:
            place = f"--{name.replace('_', '-')}"
        elif origin.endswith("_…"):  # a variable of the environment
            place = origin.replace("…", name.upper())
        if problem["type"] == "extra_forbidden":
            lines[name] = f"{place}: no such setting.{did_you_mean(name, kind.model_fields)}"
        elif name in lines:  # a number or a word, and it is neither: one line for both
            lines[name] = lines[name].removesuffix(".") + f"; or {_plain(problem['msg'])}."
        else:
            lines[name] = f"{place} = {problem['input']!r}: {_plain(problem['msg'])}."
    return "\n".join(lines.values())


def _plain(message: str) -> str:
    return message.replace("Input should be", "must be").replace("a valid integer", "a whole number")
