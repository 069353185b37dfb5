"""The native kernels' library, where there is one for this machine. Its C sources are in ``native/``.

It was compiled on some x86-64 processor and may run on another: which of its functions may be called is decided by what
the processor at hand can do. ``CHARLM_NATIVE=off`` has charlm do without it, as a processor without AVX2 would;
any other value is the path of another library.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

PATH = Path(__file__).with_name("charlm_kernels.dll" if sys.platform == "win32" else "charlm_kernels.so")
VARIABLE = "CHARLM_NATIVE"
HAS_AVX2_AND_FMA = 1  # as in native/kernels.h


class LayerWindow(ctypes.Structure):
    """One layer over one window: ``LayerWindow`` of ``native/kernels.h``, where the fields are explained."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int64) for name in ("num_steps", "num_lanes", "num_units", "num_threads", "num_inputs")),
        *((name, ctypes.c_void_p) for name in ("inputs", "bias", "table", "ids", "resets", "panels")),
        *((name, ctypes.c_void_p) for name in ("gates", "hidden", "cell", "before", "output_gradients")),
        *((name, ctypes.c_void_p) for name in ("hidden_gradients", "cell_gradients", "input_gradients")),
        *((name, ctypes.c_void_p) for name in ("weight_gradients", "bias_gradients", "table_gradients")),
    ]


class Native(NamedTuple):
    """The library and the instructions it uses; or ``None`` and why it cannot be used."""

    library: ctypes.CDLL | None
    description: str


@cache
def load_native() -> Native:
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return Native(None, f"turned off by {VARIABLE}")
    path = Path(chosen) if chosen else PATH
    if not path.is_file():
        return Native(None, "not compiled: there was no C compiler, or no kernels for this architecture")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return Native(None, f"cannot be loaded: {error}")
    if not library.charlm_processor_features() & HAS_AVX2_AND_FMA:
        return Native(None, "this processor has no AVX2 and FMA")
    window = ctypes.POINTER(LayerWindow)
    for function in (library.charlm_lstm_forward_avx2, library.charlm_lstm_backward_avx2):
        function.argtypes = [window]
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    sizes = [integer, integer]
    for function in (library.charlm_pack_forward, library.charlm_unpack_forward):
        function.argtypes, function.restype = [pointer, *sizes, pointer, *sizes, integer], None
    library.charlm_pack_backward.argtypes = [pointer, *sizes, pointer, integer]
    library.charlm_pack_backward.restype = None
    library.charlm_sample_avx2.argtypes = [pointer, integer, pointer, pointer, pointer]
    library.charlm_sample_avx2.restype = integer
    for function in (library.charlm_sampler_advance_avx2, library.charlm_sampler_read_hidden_avx2):
        function.argtypes, function.restype = [pointer], None
    return Native(library, "AVX2")
