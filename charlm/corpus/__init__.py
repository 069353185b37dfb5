"""From text to windows of ids: sources, vocabulary, encoded corpus, batches."""
