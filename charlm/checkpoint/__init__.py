"""A checkpoint: a model, and the state of the training that it comes from.

It is a folder that is complete in itself and never changes once it has its name.
"""
