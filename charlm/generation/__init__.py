"""New text from a model: what may be drawn, and the stream of what was."""
