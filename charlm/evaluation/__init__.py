"""Evaluation of a model on a text, in nats and bits per character."""
