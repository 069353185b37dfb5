"""The study of a text: baselines, overlap of its splits, statistics, and all of it as a report."""
