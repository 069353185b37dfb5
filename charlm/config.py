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

from charlm import reading
from charlm.errors import UsageError, did_you_mean

COMMAND_LINE = "command line"
TOML_AT_MOST_BYTES = 1 << 20
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
        "character", description="What to model: Unicode characters, or the raw bytes of any file."
    )
    encoding: str = Field("utf-8", description="Encoding of the input files.")
    decode_errors: Literal["error", "replace"] = Field(
        "error", description="Undecodable bytes: fail with an error, or replace with U+FFFD."
    )
    newline: Literal["keep", "lf"] = Field("keep", description="Line endings: keep them, or convert all to LF (\\n).")
    normalize: Literal["none", "nfc"] = Field("none", description="Unicode normalization; nfc turns e + ´ into é.")
    min_count: Count = Field(1, description="Map characters that occur fewer times than this to one unknown token.")
    document_separator: str = Field(
        "",
        description="Text that ends a document; the state is reset after it. \\n: one document per line.",
        json_schema_extra=ESCAPES,
    )
    document_per_file: bool = Field(False, description="Treat each file as a separate document.")
    validation_fraction: Fraction | Literal["auto"] = Field(
        "auto", description="Fraction held out for validation; auto: 0.1, but at most 1,000,000 characters."
    )
    test_fraction: Fraction = Field(0.0, description="Fraction held out for testing, at the end of the text.")

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
            yield "the sum of validation_fraction and test_fraction must be less than 1."
        if self.unit == "byte":
            of_characters = ("encoding", "decode_errors", "newline", "normalize", "min_count")
            for name in of_characters:
                if getattr(self, name) != CorpusSettings.model_fields[name].default:
                    yield f"{name} does not apply to bytes: remove it, or use unit = character."


class ModelSettings(Settings):
    """The shape of the network."""

    cell: Literal["lstm", "gru", "rnn"] = Field("lstm", description="Type of recurrent cell.")
    embedding_size: Count = Field(64, description="Size of the character embeddings.")
    hidden_size: Count = Field(384, description="Hidden units per layer.")
    num_layers: Count = Field(2, description="Number of stacked recurrent layers.")
    dropout: Fraction = Field(0.2, description="Dropout probability after each layer.")
    tie_weights: bool = Field(False, description="Share one matrix between embedding and output layer.")

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.tie_weights and self.embedding_size != self.hidden_size:
            yield f"tie_weights needs embedding_size = hidden_size (got {self.embedding_size} and {self.hidden_size})."


class WindowSettings(Settings):
    """The size of what one forward pass reads."""

    batch_size: Count = Field(32, description="Number of text streams trained on in parallel.")
    sequence_length: Count = Field(64, description="Characters per window: how far gradients are backpropagated.")


class OptimizationSettings(Settings):
    """How the network learns, and for how long."""

    accumulation_steps: Count = Field(1, description="Windows whose gradients are accumulated per optimizer step.")
    learning_rate: float = Field(4e-3, gt=0, le=10, description="Peak learning rate (AdamW).")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear learning rate warmup.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Learning rate schedule.")
    weight_decay: float = Field(0.05, ge=0, le=10, description="Decoupled weight decay; biases are exempt.")
    beta1: Fraction = Field(0.9, description="AdamW beta1: decay rate of the gradient average.")
    beta2: Fraction = Field(0.99, description="AdamW beta2: decay rate of the squared gradient average.")
    gradient_clip: float = Field(1.0, ge=0, description="Maximum gradient norm; 0: no clipping.")
    max_steps: int = Field(3200, ge=0, description="Stop after this many steps; 0: no limit.")
    max_epochs: float = Field(0.0, ge=0, description="Stop after this many passes over the training text; 0: no limit.")
    max_minutes: float = Field(0.0, ge=0, description="Stop after this many minutes of training time; 0: no limit.")
    patience: int = Field(0, ge=0, description="Stop after this many evaluations without improvement; 0: never.")
    seed: int = Field(1, ge=0, lt=2**63, description="Random seed for initial weights and dropout.")
    init_from: str = Field(
        "", description="Run or checkpoint to finetune: its architecture and weights are the starting point."
    )

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not any(getattr(self, name) for name in LENGTHS):
            yield "at least one of max_steps, max_epochs and max_minutes must be greater than 0."


class RunSettings(Settings):
    """What happens around the learning."""

    log_every: Count = Field(10, description="Steps between log entries.")
    evaluate_every: Count | Literal["auto"] = Field(
        "auto", description="Steps between evaluations; auto: as often as fits in 10% of the time."
    )
    save_every: float = Field(5.0, gt=0, description="Maximum minutes of training between checkpoints.")
    keep: int = Field(2, ge=0, description="Checkpoints to keep in addition to the best and the latest.")
    sample_length: int = Field(200, ge=0, description="Characters of sample text shown after each evaluation; 0: none.")


class DeviceSettings(Settings):
    """Where and how the arithmetic is done."""

    device: str = Field("auto", description="auto (CUDA if available, else CPU), cpu, cuda, cuda:1 or mps.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Matrix multiplication precision; auto: bf16 on CPUs with native support."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0: PyTorch's default.")


class TrainSettings(DeviceSettings, RunSettings, OptimizationSettings, WindowSettings, ModelSettings, CorpusSettings):
    """All settings of a training. Flat: a key of TOML is an option's name with underscores."""


SECTIONS: Mapping[str, type[Settings]] = {
    "Data": CorpusSettings,
    "Model": ModelSettings,
    "Batching": WindowSettings,
    "Optimization": OptimizationSettings,
    "Logging and checkpoints": RunSettings,
    "Device": DeviceSettings,
}


class BenchSettings(DeviceSettings, WindowSettings, ModelSettings):
    """What ``charlm bench`` measures."""


class SampleSettings(Settings):
    """How text is generated."""

    prompt: str = Field("", description="Text to continue.")
    unknown: Literal["error", "skip", "replace"] = Field(
        "error", description="Prompt characters the model does not know: fail, drop, or use its unknown token."
    )
    length: int = Field(500, ge=0, description="Maximum number of characters to generate.")
    temperature: float = Field(
        0.8, ge=0, description="Lower is more predictable, higher more varied; 0: always the likeliest character."
    )
    top_k: int = Field(0, ge=0, description="Sample only from the k likeliest characters; 0: off.")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Sample only from the likeliest characters that add up to this probability; 1: off.",
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="Drop characters less likely than this fraction of the likeliest one; 0: off."
    )
    ban: str = Field("", description="Characters never to generate.", json_schema_extra=ESCAPES)
    allow: str = Field(
        "", description="Generate only these characters; empty: no restriction.", json_schema_extra=ESCAPES
    )
    stop: Texts = Field((), description="Stop after generating this text; can be repeated.", json_schema_extra=ESCAPES)
    stop_at_line: bool = Field(False, description="Stop at the end of the first line.")
    num_samples: Count = Field(1, description="Number of samples to generate.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | Literal["random"] = Field(
        "random", description="Random seed; the same seed gives the same text."
    )
    precision: Literal["auto", "fp32"] = Field(
        "auto", description="Matrix multiplication precision; auto: int8 for large matrices (within 0.001 bits)."
    )

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "" in self.stop:
            yield "stop: must not be empty."


class DynamicSettings(Settings):
    """How a model goes on learning while it is evaluated."""

    dynamic_learning_rate: float = Field(
        1e-4, gt=0, le=10, description="Learning rate of the update after each segment."
    )
    dynamic_decay: Fraction = Field(
        0.001, description="Fraction by which each update pulls weights back to the trained ones."
    )
    dynamic_segment_length: Count = Field(32, description="Characters between updates.")


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
        raise UsageError(_problems(kind, error, origins), "See --help for the allowed values.") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a flat TOML file. Raises ``UsageError`` if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(reading.read_file(path, TOML_AT_MOST_BYTES).decode())
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.", "To name a preset, omit the folder and .toml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: invalid TOML: {error}.", "Write one `name = value` per line.") from None


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
            lines[name] = f"{place}: unknown setting.{did_you_mean(name, kind.model_fields)}"
        elif name in lines:  # a number or a word, and it is neither: one line for both
            lines[name] = lines[name].removesuffix(".") + f" or {_plain(problem['msg']).removeprefix('must be ')}."
        else:
            lines[name] = f"{place} = {problem['input']!r}: {_plain(problem['msg'])}."
    return "\n".join(lines.values())


def _plain(message: str) -> str:
    return message.replace("Input should be", "must be").replace("a valid integer", "an integer")
