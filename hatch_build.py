"""Compiles the native kernels when a wheel or an editable installation is made, where there is a C compiler.

Where there is none, or none that can do it, the package is installed without them and says why.
"""

import importlib.util
import platform
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeKernels(BuildHookInterface):
    """Adds the library to the wheel, and the platform that it was compiled for to the wheel's tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        native = load_build_script(Path(self.root) / "native" / "build.py")
        try:
            library = native.compile_library()
        except native.NoCompilerError as error:
            self.app.display_warning(f"charlm runs on PyTorch's kernels: {error}")
            return
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        # A Python for two architectures, as on macOS, compiles for the one that it runs on
        system = sysconfig.get_platform().replace("universal2", platform.machine())
        tag = system.replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag}"  # it is called by ctypes: any version of Python will do


def load_build_script(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location("charlm_native_build", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
