"""What happens inside a model while it reads a text: its gates and states, and what single units track."""
