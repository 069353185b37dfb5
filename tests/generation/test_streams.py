"""Streams of characters: reproducible, independent of one another, and drawn from the right distribution."""

import itertools

import pytest
import torch
from torch import nn

from charlm.config import ModelSettings, SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError
from charlm.generation.streams import Sampler, mix
from charlm.model.language_model import CharacterModel

VOCABULARY = Vocabulary(list("\nabcdefg"))


@pytest.fixture
def model() -> CharacterModel:
    """Weights large enough that what was read shows."""
    settings = ModelSettings(hidden_size=16, embedding_size=8, num_layers=2, dropout=0.5)
    model = CharacterModel(len(VOCABULARY), settings)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def texts(model: CharacterModel, count: int = 1, **settings: object) -> list[str]:
    sampler = Sampler(model, VOCABULARY, SampleSettings(**{"length": 60, "seed": 5, "num_samples": count, **settings}))
    return ["".join(sampler.stream(index)) for index in range(count)]


@torch.inference_mode()
def next_probabilities(model: CharacterModel, text: str) -> torch.Tensor:
    """What the model itself says may come after ``text``."""
    model.eval()
    ids = torch.tensor([VOCABULARY.start_id, *VOCABULARY.encode(text).tolist()])[:, None]
    logits, _ = model(ids, model.zero_state(1))
    return torch.softmax(logits[-1, 0], -1)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model: CharacterModel) -> None:
    assert texts(model) == texts(model)
    assert texts(model, seed=6) != texts(model)


def test_a_random_seed_is_said_and_gives_the_same_text_when_given(model: CharacterModel) -> None:
    first = Sampler(model, VOCABULARY, SampleSettings(length=60))
    second = Sampler(model, VOCABULARY, SampleSettings(length=60))
    assert first.seed != second.seed
    assert texts(model, seed=first.seed) == ["".join(first.stream())]


def test_a_sample_does_not_depend_on_how_many_are_asked_for(model: CharacterModel) -> None:
    three = texts(model, 3)
    assert texts(model, 5)[:3] == three
    assert texts(model, 1) == three[:1]
    sampler = Sampler(model, VOCABULARY, SampleSettings(length=60, seed=5))
    assert "".join(sampler.stream(2)) == three[2]  # nor on those before it having been made


def test_samples_made_side_by_side_are_the_ones_made_one_after_another(model: CharacterModel) -> None:
    sampler = Sampler(model, VOCABULARY, SampleSettings(length=60, seed=5))
    pairs = list(zip(sampler.stream(0), sampler.stream(1), strict=True))
    assert ["".join(text) for text in zip(*pairs, strict=True)] == texts(model, 2)


def test_samples_of_one_seed_differ(model: CharacterModel) -> None:
    assert len(set(texts(model, 10))) == 10


def test_neighbouring_seeds_share_no_samples(model: CharacterModel) -> None:
    assert not set(texts(model, 10, seed=5)) & set(texts(model, 10, seed=6))


@pytest.mark.parametrize("prompt", ["", "abacab\n"])
def test_greedy_is_the_most_probable_character_each_time(model: CharacterModel, prompt: str) -> None:
    (text,) = texts(model, prompt=prompt, temperature=0.0, length=30)
    for position, character in enumerate(text):
        probabilities = next_probabilities(model, prompt + text[:position])
        assert character == VOCABULARY.characters[int(probabilities.argmax())]


def chi_squared(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = counts.sum() * probabilities
    return ((counts - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("prompt", ["", "gab"])
def test_first_characters_are_as_frequent_as_the_model_says(model: CharacterModel, prompt: str) -> None:
    probabilities = next_probabilities(model, prompt)
    assert probabilities.min() > 0.001
    sampler = Sampler(model, VOCABULARY, SampleSettings(length=1, seed=0, temperature=1.0, prompt=prompt))
    drawn = [VOCABULARY.characters.index("".join(sampler.stream(index))) for index in range(6000)]
    counts = torch.bincount(torch.tensor(drawn), minlength=len(VOCABULARY))
    assert chi_squared(counts, probabilities) < 24.3  # 7 degrees of freedom: one seed in 1,000 would be beyond
    assert chi_squared(counts, probabilities.roll(1)) > 24.3  # the test can tell


def test_characters_of_one_stream_are_as_frequent_as_the_model_says(model: CharacterModel) -> None:
    # Each draw is compared with the distribution of its own place: of the probabilities of what was drawn,
    # the mean over many draws is that of the squared probabilities.
    (text,) = texts(model, length=1500, temperature=1.0)
    ids = torch.tensor([VOCABULARY.start_id, *VOCABULARY.encode(text).tolist()])
    model.eval()
    with torch.inference_mode():
        logits, _ = model(ids[:-1, None], model.zero_state(1))
    probabilities = torch.softmax(logits[:, 0], -1)
    drawn = probabilities.gather(1, ids[1:, None])[:, 0]
    mean = (probabilities**2).sum(1)
    variance = (probabilities**3).sum(1) - mean**2
    deviations = ((drawn - mean).sum() / variance.sum().sqrt()).item()
    assert abs(deviations) < 3.3


def test_top_k_draws_nothing_else(model: CharacterModel) -> None:
    best = set(next_probabilities(model, "").topk(3).indices.tolist())
    sampler = Sampler(model, VOCABULARY, SampleSettings(length=1, seed=0, temperature=2.0, top_k=3))
    drawn = {VOCABULARY.characters.index("".join(sampler.stream(index))) for index in range(300)}
    assert drawn == best


def test_the_prompt_is_read_and_not_repeated(model: CharacterModel) -> None:
    (with_prompt,) = texts(model, prompt="abc", length=20)
    (without,) = texts(model, length=20)
    assert len(with_prompt) == 20
    assert with_prompt != without


@pytest.mark.parametrize("length", [0, 1, 7])
def test_as_many_characters_as_asked_for(model: CharacterModel, length: int) -> None:
    assert [len(text) for text in texts(model, 2, length=length)] == [length, length]


def test_characters_come_as_they_are_made(model: CharacterModel) -> None:
    (text,) = texts(model)
    endless = Sampler(model, VOCABULARY, SampleSettings(length=10**12, seed=5)).stream()
    assert "".join(itertools.islice(endless, 60)) == text


def test_unknown_characters_of_a_prompt_are_refused_and_listed(model: CharacterModel) -> None:
    with pytest.raises(TextError) as caught:
        Sampler(model, VOCABULARY, SampleSettings(prompt="abé☃a☃"))
    assert "2 characters" in str(caught.value)
    assert "U+00E9" in str(caught.value)
    assert "'☃' (U+2603 SNOWMAN)" in str(caught.value)
    assert "'a'" not in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_training_is_touched(model: CharacterModel, training: bool) -> None:
    model.train(training)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    generator = torch.get_rng_state()
    texts(model, 2, prompt="abc")
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


def test_a_refused_prompt_leaves_the_model_in_training_too(model: CharacterModel) -> None:
    model.train()
    with pytest.raises(TextError):
        Sampler(model, VOCABULARY, SampleSettings(prompt="é"))
    assert model.training


def test_dropout_is_off_while_sampling(model: CharacterModel) -> None:
    trained = texts(model.train())
    assert texts(model.eval()) == trained


def test_mix_spreads_neighbouring_seeds_and_indices() -> None:
    seeds = [mix(seed, index) for seed in range(100) for index in range(100)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == len(seeds)
    flips = [(a ^ b).bit_count() for a, b in itertools.pairwise(seeds)]
    assert 30 < sum(flips) / len(flips) < 33  # half of the 63 bits


def test_mix_takes_the_largest_seed() -> None:
    assert 0 <= mix(2**63 - 1, 10**6) < 2**63
