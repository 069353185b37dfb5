"""The network: embedding, recurrent layers, logits; its reference equations; and its one-step form for sampling."""
