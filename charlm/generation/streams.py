"""Text from a model, a character at a time as it is made."""

import secrets
from collections.abc import Iterator

import torch

from charlm.config import SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.generation.filters import distribution
from charlm.model.language_model import CharacterModel, evaluating
from charlm.model.stepper import Stepper


class Sampler:
    """Generates texts from one model and one prompt. Raises ``TextError`` if the prompt has unknown characters."""

    def __init__(self, model: CharacterModel, vocabulary: Vocabulary, settings: SampleSettings) -> None:
        self.vocabulary = vocabulary
        self.settings = settings
        self.seed = secrets.randbits(63) if settings.seed == "random" else settings.seed
        prompt = [vocabulary.start_id, *vocabulary.encode(settings.prompt).tolist()]
        self.stepper = Stepper(model)
        device = model.output_bias.device
        with evaluating(model):
            self.after_prompt = self.stepper.read(torch.tensor(prompt, device=device)[:, None])

    def stream(self, index: int = 0) -> Iterator[str]:
        """The characters of sample ``index``, which depends on the seed and its index alone."""
        logits, state = self.after_prompt
        generator = torch.Generator(logits.device).manual_seed(mix(self.seed, index))
        for remaining in reversed(range(self.settings.length)):
            probabilities = distribution(logits, self.settings.temperature, self.settings.top_k)
            drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            yield self.vocabulary.characters[int(drawn)]
            if remaining:
                logits, state = self.stepper.step(drawn, state)


def mix(seed: int, index: int) -> int:
    """A seed for each index, far from those of neighbouring seeds: splitmix64 (Steele, Lea and Flood 2014)."""
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return (z ^ (z >> 31)) >> 1
