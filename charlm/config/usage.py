"""The definition of the settings for using a trained model: sampling and dynamic evaluation."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from charlm.config.settings import ALLOWS_ESCAPES, Fraction, PositiveInt, Settings, StringTuple


class SampleSettings(Settings):
    """How text is generated."""

    prompt: str = Field(
        "", description="Text to continue, literally; for a newline: $'…\\n' in bash, \"…`n\" in PowerShell."
    )
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
    ban: str = Field("", description="Characters never to generate.", json_schema_extra=ALLOWS_ESCAPES)
    allow: str = Field(
        "", description="Generate only these characters; empty: no restriction.", json_schema_extra=ALLOWS_ESCAPES
    )
    stop: StringTuple = Field(
        (), description="Stop after generating this text; can be repeated.", json_schema_extra=ALLOWS_ESCAPES
    )
    stop_at_newline: bool = Field(False, description="Stop at the end of the first line.")
    num_samples: PositiveInt = Field(1, description="Number of samples to generate.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | Literal["random"] = Field(
        "random", description="Random seed; the same seed gives the same text."
    )
    precision: Literal["auto", "fp32"] = Field(
        "auto", description="Matrix multiplication precision; auto: int8 where it is faster (within 0.001 bits)."
    )

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if "" in self.stop:
            yield "stop: must not be empty."


class DynamicSettings(Settings):
    """Settings of dynamic evaluation, in which a model keeps learning."""

    dynamic_learning_rate: float = Field(
        1e-4, gt=0, le=10, description="Learning rate of the update after each segment."
    )
    dynamic_decay: Fraction = Field(
        0.001, description="Fraction by which each update pulls weights back to the trained ones."
    )
    dynamic_segment_length: PositiveInt = Field(32, description="Characters between updates.")
