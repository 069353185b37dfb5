"""Settings: what there is to set (settings), where values come from (sources), and named sets of them (presets)."""

from charlm.config.presets import preset_path, presets_folder
from charlm.config.settings import (
    ESCAPES,
    LENGTHS,
    SECTIONS,
    BenchSettings,
    CorpusSettings,
    DeviceSettings,
    DynamicSettings,
    ModelSettings,
    OptimizationSettings,
    RegularizationSettings,
    SampleSettings,
    Settings,
    TrainSettings,
    WindowSettings,
)
from charlm.config.sources import COMMAND_LINE, INTERACTIVE, Layer, parse_toml, read_toml, resolve, to_toml

__all__ = [
    "COMMAND_LINE",
    "ESCAPES",
    "INTERACTIVE",
    "LENGTHS",
    "SECTIONS",
    "BenchSettings",
    "CorpusSettings",
    "DeviceSettings",
    "DynamicSettings",
    "Layer",
    "ModelSettings",
    "OptimizationSettings",
    "RegularizationSettings",
    "SampleSettings",
    "Settings",
    "TrainSettings",
    "WindowSettings",
    "parse_toml",
    "preset_path",
    "presets_folder",
    "read_toml",
    "resolve",
    "to_toml",
]
