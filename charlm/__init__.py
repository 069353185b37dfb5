"""charlm: train, evaluate and sample character-level LSTM, GRU and RNN language models.

``charlm.train(corpus, **settings)`` trains, ``charlm.load(path)`` gives a model: see :mod:`charlm.api`. Importing this
package imports neither torch nor numpy, so that ``charlm --help`` answers at once.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Model", "Run", "load", "train"]

if TYPE_CHECKING:
    from charlm.api import Model, Run, load, train


def __getattr__(name: str) -> Any:
    if name in __all__:
        from charlm.machine import shorten_thread_waits

        shorten_thread_waits()
        from charlm import api

        return getattr(api, name)
    raise AttributeError(f"module 'charlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
