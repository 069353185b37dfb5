"""Settings: their definitions (settings), the sources of values (sources), and named sets of values (presets)."""

from charlm.config.automatic import TYPICAL_CHARACTERS, choose_automatic
from charlm.config.presets import preset_path, presets_folder
from charlm.config.settings import (
    ALLOWS_AUTO,
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
from charlm.config.sources import (
    SettingsSource,
    SourceKind,
    find_automatic,
    parse_toml,
    read_toml,
    resolve,
    to_toml,
)
from charlm.config.usage import DynamicSettings, SampleSettings

__all__ = [
    "ALLOWS_AUTO",
    "ALLOWS_ESCAPES",
    "MAX_THREADS",
    "SECTIONS",
    "SETTINGS_ADDED_LATER",
    "STOP_LIMITS",
    "TYPICAL_CHARACTERS",
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
    "choose_automatic",
    "find_automatic",
    "parse_toml",
    "preset_path",
    "presets_folder",
    "read_toml",
    "resolve",
    "to_toml",
]
