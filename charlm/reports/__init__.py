"""Plots and HTML pages of results: self-contained files that need no network."""
