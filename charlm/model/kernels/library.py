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
from typing import Any, ClassVar, NamedTuple

PATH = Path(__file__).with_name("charlm_kernels.dll" if sys.platform == "win32" else "charlm_kernels.so")
VARIABLE = "CHARLM_NATIVE"
VERSION = 1  # as in native/kernels.h
HAS_AVX2_AND_FMA, HAS_AVX512_BF16, HAS_AMX_BF16, IS_AMD = 1, 2, 4, 8  # as in native/kernels.h
AMX, AVX512, AVX2 = "AMX", "AVX-512", "AVX2"
LEAST_BF16_GAIN = 1.3  # of AVX-512's bf16 multiply-adds over those in fp32: below, the rest of a step costs more


class LayerWindow(ctypes.Structure):
    """One layer over one window: ``LayerWindow`` of ``native/kernels.h``, where the fields are explained."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int64) for name in ("num_steps", "num_lanes", "num_units", "num_threads", "num_inputs")),
        *((name, ctypes.c_void_p) for name in ("inputs", "bias", "table", "ids", "resets", "panels")),
        *((name, ctypes.c_void_p) for name in ("gates", "hidden", "cell", "before", "output_gradients")),
        *((name, ctypes.c_void_p) for name in ("hidden_gradients", "cell_gradients", "input_gradients")),
        *((name, ctypes.c_void_p) for name in ("weight_gradients", "bias_gradients", "table_gradients")),
    ]


class Bf16Window(ctypes.Structure):
    """One layer over one window in bf16: ``Bf16Window`` of ``native/kernels.h``."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int64) for name in ("num_steps", "num_lanes", "num_units", "num_inputs", "num_threads")),
        *((name, ctypes.c_int64) for name in ("uses_amx", "is_backward")),
        *((name, ctypes.c_void_p) for name in ("ids", "table", "inputs", "weight_ih", "weight_hh", "bias", "resets")),
        *((name, ctypes.c_void_p) for name in ("hidden", "cell", "kept", "scratch")),
        *((name, ctypes.c_void_p) for name in ("output_gradients", "hidden_gradients", "cell_gradients")),
        *((name, ctypes.c_void_p) for name in ("input_gradients", "weight_ih_gradients", "weight_hh_gradients")),
        ("sum_gradients", ctypes.c_void_p),
    ]


class Native(NamedTuple):
    """The library and the instructions it uses; or ``None`` and why it cannot be used."""

    library: ctypes.CDLL | None
    description: str
    bf16: str = ""  # AMX, AVX512, or empty where bf16 cannot run
    bf16_problem: str = ""


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
    if not hasattr(library, "charlm_kernels_version") or library.charlm_kernels_version() != VERSION:
        return Native(None, "compiled from the sources of another version: install charlm again")
    features = library.charlm_processor_features()
    if not features & HAS_AVX2_AND_FMA:
        return Native(None, "this processor has no AVX2 and FMA")
    declare_functions(library)
    bf16, problem = choose_bf16(library, features)
    return Native(library, f"{AVX2}; {bf16} for bf16" if bf16 else AVX2, bf16, problem)


def declare_functions(library: ctypes.CDLL) -> None:
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
    if has_bf16(library):
        library.charlm_bf16_buffer_sizes_avx512.argtypes = [pointer] * 3
        library.charlm_bf16_buffer_sizes_avx512.restype = None
        for function in (library.charlm_bf16_forward_avx512, library.charlm_bf16_backward_avx512):
            function.argtypes, function.restype = [pointer], None
        library.charlm_bf16_gain_avx512.restype = ctypes.c_double


def has_bf16(library: ctypes.CDLL) -> bool:
    """Whether the compiler knew the instructions."""
    return hasattr(library, "charlm_bf16_forward_avx512")


def choose_bf16(library: Any, features: int) -> tuple[str, str]:
    """The instructions for bf16; or an empty string and why there are none."""
    if not has_bf16(library):
        return "", "the C compiler was too old for bf16"
    if features & HAS_AMX_BF16:
        return AMX, ""
    if not features & HAS_AVX512_BF16:
        return "", "bf16 needs AMX or AVX-512's bf16 instructions, which this processor does not have"
    if features & IS_AMD or (gain := library.charlm_bf16_gain_avx512()) >= LEAST_BF16_GAIN:
        return AVX512, ""
    return "", f"bf16 is only {gain:.1f} times as fast as fp32 on this processor"
