"""A checkpoint: a model and its training state.

It is a self-contained folder that never changes once it has its final name.
"""
