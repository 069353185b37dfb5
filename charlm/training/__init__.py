"""The training loop, its learning rate, and what people see of it."""
