"""How well a model predicts a text: nats and bits per character, with the state carried through it."""
