"""Presets: the TOML files that ``--config NAME`` finds by name."""

from pathlib import Path

from charlm.errors import UsageError, did_you_mean


def presets_folder() -> Path:
    """``configs/``: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).parent.parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def preset_path(name: str | Path) -> Path:
    """The file of ``--config NAME``: a path when it has a slash or ends in .toml, else a preset."""
    if isinstance(name, Path):
        return name
    if "/" in name or "\\" in name or name.endswith(".toml"):
        return Path(name)
    path = presets_folder() / f"{name}.toml"
    if not path.is_file():
        known = sorted(preset.stem for preset in presets_folder().glob("*.toml"))
        raise UsageError(
            f"--config {name}: no such preset.{did_you_mean(name, known)}", f"Presets: {', '.join(known)}."
        )
    return path
