"""JSON from the types of reports."""

from dataclasses import dataclass, field

import pytest

from charlm.config import DynamicSettings
from charlm.records import to_json


@dataclass
class Part:
    nats_per_character: float


@dataclass(kw_only=True)
class Report:
    characters: int
    size_bytes: int = field(metadata={"key": "bytes"})
    advice: str | None
    part: Part | None = None
    parts: list[Part] | None = None
    speeds: dict[str, float] | None = None


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_keys_use_unit_and_omit_missing_optionals(unit: str) -> None:
    report = Report(characters=3, size_bytes=4, advice=None)
    expected = {"characters": 3, "bytes": 4, "advice": None} if unit == "character" else {"bytes": 4, "advice": None}
    assert to_json(report, unit) == expected


def test_nested_dataclasses_become_objects() -> None:
    report = Report(characters=3, size_bytes=4, advice="", part=Part(1.5), parts=[Part(2.5)], speeds={"a": 1.0})
    found = to_json(report)
    assert found["part"] == {"nats_per_character": 1.5}
    assert found["parts"] == [{"nats_per_character": 2.5}]
    assert found["speeds"] == {"a": 1.0}


def test_settings_become_objects() -> None:
    assert to_json(DynamicSettings())["dynamic_segment_length"] == 32
