"""Analysis of a text: baselines, overlap of its splits, statistics, and a report of all of them."""
