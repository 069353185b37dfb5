"""Pictures and pages of what was measured: files that are complete in themselves and need no network."""
