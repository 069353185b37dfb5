"""charlm: train, watch and sample multilayer LSTM language models of characters.

Importing this package imports neither torch nor numpy, so that ``charlm --help`` answers at once.
"""

__version__ = "0.1.0"
