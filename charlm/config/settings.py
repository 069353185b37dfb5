"""The definition of every setting: its name, type, default, range and one line of help.

The command-line options, the TOML keys, the presets and what a checkpoint records are all derived from these classes.
"Off" is a value (0 or a word), since TOML has no null and resolved settings must read back the same.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, field_validator, model_validator
from pydantic.config import JsonDict

ALLOWS_ESCAPES: JsonDict = {"escapes": True}  # for settings in which typed escapes such as \n are decoded
ALLOWS_AUTO: JsonDict = {"auto": True}  # for settings that may be auto until the text is known: see config/automatic.py
MAX_THREADS = 4096  # more than any machine has processors
STOP_LIMITS = ("max_steps", "max_epochs", "max_minutes")

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]


def _as_tuple(value: Any) -> Any:
    """Convert lists to tuples, which TOML and JSON lack, and a single text to a tuple of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


StringTuple = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


def _parse_file_name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a path")
    return os.fsdecode(unquote_to_bytes(urlsplit(value).path)) if value.startswith("file:///") else value


FileName = Annotated[str, PlainValidator(_parse_file_name, json_schema_input_type=str)]
"""Unlike pydantic's strings, may contain surrogates (bytes that are not UTF-8); a file URI is converted to a path."""


class Settings(BaseModel):
    """Strict: 2.7 or true is not an integer, an unknown key is an error, and instances are immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    def conflicts(self) -> Iterator[str]:
        """Conflicts between settings; each class adds its own."""
        yield from ()

    @model_validator(mode="after")
    def _check_conflicts(self) -> "Settings":
        if lines := list(self.conflicts()):
            raise ValueError("\n".join(lines))
        return self


class CorpusSettings(Settings):
    """How the text is read and split."""

    unit: Literal["character", "byte"] = Field(
        "character", description="What to model: Unicode characters, or the raw bytes of any file."
    )
    encoding: str = Field("utf-8", description="Encoding of the input files.")
    decode_errors: Literal["error", "replace"] = Field(
        "error", description="Undecodable bytes: fail with an error, or replace with U+FFFD."
    )
    newline: Literal["keep", "lf"] = Field("keep", description="Line endings: keep them, or convert all to LF (\\n).")
    normalize: Literal["none", "nfc"] = Field("none", description="Unicode normalization; nfc turns e + ´ into é.")
    min_count: PositiveInt = Field(
        1, description="Map characters that occur fewer times than this to one unknown token."
    )
    document_separator: str = Field(
        "",
        description="Text that ends a document; the state is reset after it. \\n: one document per line.",
        json_schema_extra=ALLOWS_ESCAPES,
    )
    document_per_file: bool = Field(False, description="Treat each file as a separate document.")
    shuffle_documents: bool = Field(
        False, description="Shuffle whole documents once, before the split; --seed does not change the order."
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = Field(
        "auto", description="Fraction held out for validation; auto: 0.1, but at most 1,000,000 characters."
    )
    test_fraction: Fraction = Field(0.0, description="Fraction held out for testing, at the end of the text.")

    @field_validator("document_separator")
    @classmethod
    def _check_encodable(cls, separator: str) -> str:
        if not separator.isprintable():  # else it is
            try:
                separator.encode()
            except UnicodeEncodeError:  # the shell passed bytes that are not UTF-8
                raise ValueError("valid UTF-8") from None  # what it must be
        return separator

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        validation = 0.1 if self.validation_fraction == "auto" else self.validation_fraction
        if validation + self.test_fraction >= 1:
            yield "the sum of validation_fraction and test_fraction must be less than 1."
        if self.shuffle_documents and not (self.document_separator or self.document_per_file):
            yield "shuffle_documents needs document_separator or document_per_file."
        if self.unit == "byte":
            character_settings = ("encoding", "decode_errors", "newline", "normalize", "min_count")
            for name in character_settings:
                if getattr(self, name) != CorpusSettings.model_fields[name].default:
                    yield f"{name} does not apply to bytes: remove it, or use unit character."


class ModelSettings(Settings):
    """The architecture of the network."""

    cell: Literal["lstm", "gru", "rnn"] = Field("lstm", description="Type of recurrent cell.")
    embedding_size: PositiveInt = Field(64, description="Size of the character embeddings.")
    hidden_size: PositiveInt = Field(
        384, description="Hidden units per layer; auto: by the size of the text.", json_schema_extra=ALLOWS_AUTO
    )
    num_layers: PositiveInt = Field(
        2,
        description="Number of stacked recurrent layers; auto: by the size of the text.",
        json_schema_extra=ALLOWS_AUTO,
    )
    tie_weights: bool = Field(False, description="Share one matrix between embedding and output layer.")

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.tie_weights and self.embedding_size != self.hidden_size:
            yield f"tie_weights needs embedding_size = hidden_size (got {self.embedding_size} and {self.hidden_size})."


class RegularizationSettings(Settings):
    """Regularization against memorizing the text; not part of the saved model."""

    dropout: Fraction = Field(
        0.2,
        description="Dropout probability after each layer; auto: by the size of the text.",
        json_schema_extra=ALLOWS_AUTO,
    )
    input_dropout: Fraction = Field(0.0, description="Dropout probability of the elements of character embeddings.")
    locked_dropout: bool = Field(
        False,
        description="Drop the same elements at all characters of a window (variational dropout, Gal and Ghahramani "
        "2016).",
    )
    embedding_dropout: Fraction = Field(
        0.0, description="Dropout probability of whole characters of the input (Gal and Ghahramani 2016)."
    )
    weight_dropout: Fraction = Field(
        0.0, description="Dropout probability of recurrent weights, for each window (Merity et al. 2018)."
    )


class BatchSettings(Settings):
    """The batch that one forward pass reads."""

    batch_size: PositiveInt = Field(32, description="Number of text streams trained on in parallel.")
    sequence_length: PositiveInt = Field(64, description="Characters per window: how far gradients are backpropagated.")


class OptimizationSettings(Settings):
    """How the network learns, and for how long."""

    accumulation_steps: PositiveInt = Field(
        1, description="Windows whose gradients are accumulated per optimizer step."
    )
    length_variation: Fraction = Field(
        0.0,
        description="Vary the length of windows at random by up to this fraction, and the learning rate with it "
        "(Merity et al. 2018).",
    )
    reset_probability: Fraction = Field(
        0.0,
        description="Probability that a text stream starts a window with a zero state and the start token, so that the "
        "model also learns beginnings (Melis et al. 2020).",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for the rest; a step takes "
        "about a tenth longer.",
    )
    learning_rate: float = Field(4e-3, gt=0, le=10, description="Peak learning rate (AdamW).")
    muon_learning_rate: float = Field(0.02, gt=0, le=10, description="Peak learning rate of Muon.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear learning rate warmup.")
    schedule: Literal["cosine", "wsd", "constant"] = Field(
        "cosine",
        description="Learning rate schedule; wsd: warmup, stable, decay (Hu et al. 2024).",
    )
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="With schedule wsd: final fraction of the run in which the learning rate decays."
    )
    average_decay: Fraction = Field(
        0.0,
        description="Decay per step of a moving average of the weights (Polyak and Juditsky 1992), which is evaluated "
        "and saved as the model; 0: off.",
    )
    weight_decay: float = Field(0.05, ge=0, le=10, description="Decoupled weight decay; biases are exempt.")
    beta1: Fraction = Field(0.9, description="AdamW beta1: decay rate of the gradient average.")
    beta2: Fraction = Field(0.99, description="AdamW beta2: decay rate of the squared gradient average.")
    gradient_clip: float = Field(1.0, ge=0, description="Maximum gradient norm; 0: no clipping.")
    max_steps: int = Field(
        3200,
        ge=0,
        description="Stop after this many steps; 0: no limit; auto: by the size of the text.",
        json_schema_extra=ALLOWS_AUTO,
    )
    max_epochs: float = Field(0.0, ge=0, description="Stop after this many passes over the training text; 0: no limit.")
    max_minutes: float = Field(0.0, ge=0, description="Stop after this many minutes of training time; 0: no limit.")
    patience: int = Field(0, ge=0, description="Stop after this many evaluations without improvement; 0: never.")
    seed: int = Field(1, ge=0, lt=2**63, description="Random seed for initial weights, dropout, and varied windows.")
    init_from: FileName = Field(
        "", description="Run or checkpoint to finetune: its architecture and weights are the starting point."
    )

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if not any(getattr(self, name) for name in STOP_LIMITS):
            yield "at least one of max_steps, max_epochs and max_minutes must be greater than 0."


class LoggingSettings(Settings):
    """Logging, evaluation and checkpoints."""

    log_every: PositiveInt = Field(10, description="Steps between log entries.")
    evaluate_every: PositiveInt | Literal["auto"] = Field(
        "auto", description="Steps between evaluations; auto: 4 to 10 evaluations, closer together at the start."
    )
    save_every_minutes: float = Field(5.0, gt=0, description="Maximum minutes of training between checkpoints.")
    keep_checkpoints: int = Field(2, ge=0, description="Checkpoints to keep in addition to the best and the latest.")
    log_internals: bool = Field(
        True, description="At evaluations, log gates, gradients, updates and histograms to TensorBoard."
    )
    sample_length: int = Field(200, ge=0, description="Characters of sample text shown after each evaluation; 0: none.")


class DeviceSettings(Settings):
    """Device, precision and threads."""

    device: str = Field("auto", description="Device: auto (CUDA if available, else CPU), cpu, cuda, cuda:1 or mps.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Matrix multiplication precision; auto: bf16 on CPUs with native support."
    )
    kernel: Literal["auto", "native", "torch"] = Field(
        "auto", description="What runs the recurrent layers; auto: charlm's own code where it is faster than PyTorch's."
    )
    threads: int = Field(0, ge=0, le=MAX_THREADS, description="CPU threads; 0: chosen automatically.")


class TrainSettings(
    DeviceSettings,
    LoggingSettings,
    OptimizationSettings,
    BatchSettings,
    RegularizationSettings,
    ModelSettings,
    CorpusSettings,
):
    """All settings of a training run. Flat: TOML keys are option names with underscores."""


SETTINGS_ADDED_LATER: dict[str, Any] = {
    "optimizer": "adamw",
    "muon_learning_rate": 0.02,
    "decay_fraction": 0.2,
    "average_decay": 0.0,
    "length_variation": 0.0,
    "reset_probability": 0.0,
    "input_dropout": 0.0,
    "locked_dropout": False,
    "embedding_dropout": 0.0,
    "weight_dropout": 0.0,
    "kernel": "auto",
}
"""Settings that the first version did not have, with the values that its checkpoints were trained with."""

SECTIONS: Mapping[str, type[Settings]] = {
    "Data": CorpusSettings,
    "Model": ModelSettings,
    "Regularization": RegularizationSettings,
    "Batching": BatchSettings,
    "Optimization": OptimizationSettings,
    "Logging and checkpoints": LoggingSettings,
    "Device": DeviceSettings,
}


class BenchSettings(DeviceSettings, BatchSettings, RegularizationSettings, ModelSettings):
    """What ``charlm bench`` measures."""
