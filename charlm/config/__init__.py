"""Settings: their definitions (settings), the sources of values (sources), and named sets of values (presets)."""

from charlm.config.presets import preset_path, presets_folder
from charlm.config.settings import (
    ALLOWS_ESCAPES,
    MAX_THREADS,
    SECTIONS,
    SETTINGS_ADDED_LATER,
    STOP_LIMITS,
    BatchSettings,
    BenchSettings,
    CorpusSettings,
    DeviceSettings,
    ModelSettings,
    OptimizationSettings,
    RegularizationSettings,
    Settings,
    TrainSettings,
)
from charlm.config.sources import SettingsSource, SourceKind, parse_toml, read_toml, resolve, to_toml
from charlm.config.usage import DynamicSettings, SampleSettings

__all__ = [
    "ALLOWS_ESCAPES",
    "MAX_THREADS",
    "SECTIONS",
    "SETTINGS_ADDED_LATER",
    "STOP_LIMITS",
    "BatchSettings",
    "BenchSettings",
    "CorpusSettings",
    "DeviceSettings",
    "DynamicSettings",
    "ModelSettings",
    "OptimizationSettings",
    "RegularizationSettings",
    "SampleSettings",
    "Settings",
    "SettingsSource",
    "SourceKind",
    "TrainSettings",
    "parse_toml",
    "preset_path",
    "presets_folder",
    "read_toml",
    "resolve",
    "to_toml",
]
