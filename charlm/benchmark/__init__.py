"""What ``charlm bench`` measures: charlm, plain PyTorch, and the machine's limit."""
