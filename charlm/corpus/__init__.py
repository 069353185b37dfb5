"""From text to windows of ids: sources, cache, documents, splits, vocabulary."""
