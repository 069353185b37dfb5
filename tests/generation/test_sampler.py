"""Streams of characters: reproducible, independent of one another, and drawn from the right distribution."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from charlm.config import CorpusSettings, ModelSettings, RegularizationSettings, SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError, UsageError
from charlm.generation import sampler
from charlm.generation.randomness import RANDOM_BLOCK, derive_seed, draw_uniform_blocks
from charlm.generation.sampler import Sampler
from charlm.model import matmul, stepper
from charlm.model.kernels.sampler import NativeSampler
from charlm.model.language_model import CharacterModel
from charlm.model.stepper import Stepper, StepperPool

VOCABULARY = Vocabulary(list("\nabcdefg"))


@pytest.fixture
def model() -> CharacterModel:
    """Weights large enough that what was read shows."""
    settings = ModelSettings(hidden_size=16, embedding_size=8, num_layers=2)
    model = CharacterModel(len(VOCABULARY), settings, RegularizationSettings(dropout=0.5))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def sampler_of(model: CharacterModel, **settings: object) -> Sampler:
    return Sampler(model, VOCABULARY, SampleSettings(**{"length": 60, "seed": 5, **settings}))


def texts(model: CharacterModel, count: int = 1, **settings: object) -> list[str]:
    return [sample.text for sample in sampler_of(model, num_samples=count, **settings).generate_all()]


@torch.inference_mode()
def next_probabilities(model: CharacterModel, text: str) -> torch.Tensor:
    """What the model itself says may come after ``text``."""
    model.eval()
    ids = torch.tensor([VOCABULARY.start_id, *VOCABULARY.encode(text).tolist()])[:, None]
    logits, _ = model(ids, model.zero_state(1))
    return torch.softmax(logits[-1, 0], -1)


def test_seed_determines_text(model: CharacterModel) -> None:
    assert texts(model) == texts(model)
    assert texts(model, seed=6) != texts(model)


def test_reported_random_seed_reproduces_sample(model: CharacterModel) -> None:
    first = Sampler(model, VOCABULARY, SampleSettings(length=60))
    second = Sampler(model, VOCABULARY, SampleSettings(length=60))
    assert first.seed != second.seed
    assert texts(model, seed=first.seed) == ["".join(first.stream())]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("threshold", [1, matmul.INT8_MIN_WEIGHTS])
def test_sample_does_not_depend_on_number_of_samples(
    cell: str, threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "INT8_MIN_WEIGHTS", threshold)
    settings = ModelSettings(cell=cell, hidden_size=16, embedding_size=8, num_layers=2)
    model = CharacterModel(len(VOCABULARY), settings, RegularizationSettings(dropout=0.5))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    sixteen = texts(model, 16, length=300)
    assert texts(model, 4, length=300) == sixteen[:4]
    assert texts(model, 1, length=300) == sixteen[:1]


def test_stream_equals_first_sample(model: CharacterModel) -> None:
    assert "".join(sampler_of(model, num_samples=3).stream()) == texts(model, 3)[0]


def test_sampler_can_be_reused(model: CharacterModel) -> None:
    sampler = sampler_of(model, num_samples=2)
    assert sampler.generate_all() == sampler.generate_all()


def test_interleaved_streams_are_independent(model: CharacterModel) -> None:
    sampler = sampler_of(model)
    in_turns = list(zip(sampler.stream(), sampler.stream(), strict=True))
    assert ["".join(text) for text in zip(*in_turns, strict=True)] == texts(model) * 2


def test_weights_are_packed_once(model: CharacterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr(stepper, "Stepper", lambda *details: made.append(details[1:]) or Stepper(*details))
    model.recurrent.kernel = "torch"
    steppers = StepperPool(model)
    for prompt in ("a", "b", "c"):
        Sampler(model, VOCABULARY, SampleSettings(prompt=prompt, length=5), stepper_pool=steppers).generate_all()
    Sampler(model, VOCABULARY, SampleSettings(num_samples=2, length=5), stepper_pool=steppers).generate_all()
    assert made == [(1, "auto"), (2, "auto")]


def test_fp32_and_next_probabilities_use_full_precision(model: CharacterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    model.recurrent.kernel = "torch"  # the native one has no products of torch

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            seen.append(torch.backends.cuda.matmul.fp32_precision)
            return function(*arguments)

        return wrapper

    monkeypatch.setattr(sampler, "prefill", noted(sampler.prefill))
    monkeypatch.setattr(Stepper, "step", noted(Stepper.step))
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        for precision, expected in (("auto", "tf32"), ("fp32", "ieee")):
            sampler_of(model, length=3, precision=precision).generate_all()
            assert seen == [expected] * 3  # the prompt, two steps
            seen.clear()
            sampler_of(model, precision=precision).next_characters(1)
            assert seen == ["ieee"]
            seen.clear()
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_each_step_extends_unfinished_samples(model: CharacterModel) -> None:
    sampler = sampler_of(model, num_samples=4, stop=("a", "bc"))
    samples, lengths = sampler.new_samples(), [0] * 4
    for _ in sampler.generate(samples):
        before, lengths = lengths, [len(sample.text) for sample in samples]
        grown = [new > old for new, old in zip(lengths, before, strict=True)]
        assert any(grown)
        assert all(grew or sample.finish_reason for grew, sample in zip(grown, samples, strict=True))
    assert len(set(lengths)) > 1  # they have ended at different times
    assert samples == sampler.generate_all()


def test_samples_with_one_seed_differ(model: CharacterModel) -> None:
    assert len(set(texts(model, 10))) == 10


def test_neighboring_seeds_share_no_samples(model: CharacterModel) -> None:
    assert not set(texts(model, 10, seed=5)) & set(texts(model, 10, seed=6))


@pytest.mark.parametrize("prompt", ["", "abacab\n"])
def test_greedy_takes_likeliest_character(model: CharacterModel, prompt: str) -> None:
    (text,) = texts(model, prompt=prompt, temperature=0.0, length=30, precision="fp32")
    for position, character in enumerate(text):
        probabilities = next_probabilities(model, prompt + text[:position])
        assert character == VOCABULARY.characters[int(probabilities.argmax())]


def chi_squared(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = counts.sum() * probabilities
    return ((counts - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("prompt", ["", "gab"])
def test_first_character_frequencies_match_model(model: CharacterModel, prompt: str) -> None:
    probabilities = next_probabilities(model, prompt)
    assert probabilities.min() > 0.001
    drawn = [
        VOCABULARY.characters.index(text)
        for text in texts(model, 6000, length=1, seed=0, temperature=1.0, prompt=prompt)
    ]
    counts = torch.bincount(torch.tensor(drawn), minlength=len(VOCABULARY))
    assert chi_squared(counts, probabilities) < 24.3  # 7 degrees of freedom: one seed in 1,000 would be beyond
    assert chi_squared(counts, probabilities.roll(1)) > 24.3  # the test can tell


def test_stream_character_frequencies_match_model(model: CharacterModel) -> None:
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


def test_top_k_excludes_other_characters(model: CharacterModel) -> None:
    best = set(next_probabilities(model, "").topk(3).indices.tolist())
    drawn = {
        VOCABULARY.characters.index(text) for text in texts(model, 300, length=1, seed=0, temperature=2.0, top_k=3)
    }
    assert drawn == best


def test_prompt_is_not_part_of_sample(model: CharacterModel) -> None:
    with_prompt, without = texts(model, 10, prompt="abc", length=20), texts(model, 10, length=20)
    assert all(len(text) == 20 for text in with_prompt)
    assert with_prompt != without


@pytest.mark.parametrize("length", [0, 1, 7])
def test_length_is_exact(model: CharacterModel, length: int) -> None:
    assert [len(text) for text in texts(model, 2, length=length)] == [length, length]


def test_characters_are_streamed_immediately(model: CharacterModel) -> None:
    (text,) = texts(model)
    endless = Sampler(model, VOCABULARY, SampleSettings(length=10**12, seed=5)).stream()
    assert "".join(itertools.islice(endless, 60)) == text


def test_unknown_prompt_characters_are_listed(model: CharacterModel) -> None:
    with pytest.raises(TextError) as caught:
        Sampler(model, VOCABULARY, SampleSettings(prompt="abé☃a☃"))
    assert "2 characters" in str(caught.value)
    assert "U+00E9" in str(caught.value)
    assert "'☃' (U+2603 SNOWMAN)" in str(caught.value)
    assert "'a'" not in str(caught.value)
    assert "--unknown skip" in caught.value.hint


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_training_state_unchanged(model: CharacterModel, training: bool) -> None:
    model.train(training)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    generator = torch.get_rng_state()
    texts(model, 2, prompt="abc")
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


def test_rejected_prompt_restores_model_mode(model: CharacterModel) -> None:
    model.train()
    with pytest.raises(TextError):
        Sampler(model, VOCABULARY, SampleSettings(prompt="é"))
    assert model.training


def test_dropout_is_off_while_sampling(model: CharacterModel) -> None:
    trained = texts(model.train())
    assert texts(model.eval()) == trained


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("auto", 0.1)])
def test_log_probability_sums_over_sampled_path(model: CharacterModel, precision: str, tolerance: float) -> None:
    options = {"num_samples": 3, "temperature": 1.0, "prompt": "ab", "length": 20, "precision": precision}
    for sample in sampler_of(model, **options).generate_all():
        expected = 0.0
        for position, character in enumerate(sample.text):
            probabilities = next_probabilities(model, "ab" + sample.text[:position])
            expected += math.log(probabilities[VOCABULARY.characters.index(character)])
        assert sample.log_probability_nats == pytest.approx(expected, abs=tolerance)


def test_filtering_raises_log_probability(model: CharacterModel) -> None:
    (greedy,) = sampler_of(model, temperature=0).generate_all()
    assert greedy.log_probability_nats == 0  # it could not have been another
    for filtered in ({"top_k": 2}, {"top_p": 0.4}, {"min_p": 0.9}):
        for sample in sampler_of(model, num_samples=5, temperature=3.0, **filtered).generate_all():
            assert -60 * math.log(len(VOCABULARY)) < sample.log_probability_nats <= 0
    (two,) = sampler_of(model, top_k=2, temperature=1e6).generate_all()
    assert two.log_probability_nats == pytest.approx(-60 * math.log(2), rel=1e-3)


def test_ban_and_allow_restrict_sampling(model: CharacterModel) -> None:
    free = "".join(texts(model, 20))
    assert "a" in free
    assert set("".join(texts(model, 20, ban="ac"))) == set(free) - set("ac")
    assert set("".join(texts(model, 20, allow="ac\n☃", ban="c"))) == set("a\n")
    assert set(texts(model, 1, allow="b", temperature=0)[0]) == {"b"}
    with pytest.raises(UsageError):
        texts(model, allow="☃")


def test_sample_ends_at_first_stop_text_or_length(model: CharacterModel) -> None:
    free = sampler_of(model, num_samples=30).generate_all()
    stopped = sampler_of(model, num_samples=30, stop=("ab", "c\nc")).generate_all()
    assert {sample.finish_reason for sample in free} == {"length"}
    assert {sample.finish_reason for sample in stopped} == {"stop", "length"}
    for whole, sample in zip(free, stopped, strict=True):
        ends = [whole.text.find(stop) + len(stop) for stop in ("ab", "c\nc") if stop in whole.text]
        assert sample.text == whole.text[: min(ends, default=60)]
        assert sample.finish_reason == ("stop" if ends else "length")


def test_stop_at_newline_ends_sample(model: CharacterModel) -> None:
    free = texts(model, 30, length=8)
    for whole, sample in zip(
        free, sampler_of(model, num_samples=30, length=8, stop_at_newline=True).generate_all(), strict=True
    ):
        line, end, _ = whole.partition("\n")
        assert sample.text == line + end
        assert sample.finish_reason == ("newline" if end else "length")
    assert len({"\n" in text for text in free}) == 2


def test_samples_have_index_and_seed(model: CharacterModel) -> None:
    samples = sampler_of(model, num_samples=3, length=0).generate_all()
    assert [(sample.index, sample.seed, sample.finish_reason) for sample in samples] == [
        (n, 5, "length") for n in range(3)
    ]


def test_random_numbers_depend_only_on_seed_and_index() -> None:
    def numbers(seed: int, streams: int) -> "list[list[float]]":
        blocks = draw_uniform_blocks(seed, range(streams))
        steps = itertools.islice(itertools.chain.from_iterable(blocks), 2 * RANDOM_BLOCK + 1)
        return [list(stream) for stream in zip(*(step.tolist() for step in steps), strict=True)]

    five = numbers(3, 5)
    assert numbers(3, 2) == five[:2]
    every = [number for stream in five for number in stream]
    assert len(set(every)) == len(every)
    assert all(0 <= number < 1 for number in every)
    assert numbers(4, 1)[0] != five[0]


def test_derive_seed_spreads_neighboring_seeds() -> None:
    seeds = [derive_seed(seed, index) for seed in range(100) for index in range(100)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == len(seeds)
    flips = [(a ^ b).bit_count() for a, b in itertools.pairwise(seeds)]
    assert 30 < sum(flips) / len(flips) < 33  # half of the 63 bits


def test_derive_seed_accepts_largest_seed() -> None:
    assert 0 <= derive_seed(2**63 - 1, 10**6) < 2**63


# What is not a plain text of known characters


@pytest.mark.parametrize("settings", [{}, {"temperature": 9.0}, {"temperature": 0.0}, {"allow": "ab\N{SNOWMAN}"}])
def test_unknown_token_is_never_sampled(model: CharacterModel, settings: dict[str, object]) -> None:
    with torch.no_grad():
        model.output_bias[-1] += 50  # it would be drawn every time
    vocabulary = Vocabulary(VOCABULARY.characters[:-1], has_unknown=True)
    assert len(vocabulary) == len(VOCABULARY)
    options = SampleSettings(**{"length": 200, "seed": 5, "num_samples": 3, **settings})
    for sample in Sampler(model, vocabulary, options).generate_all():
        assert len(sample.text) == 200
        assert set(sample.text) <= set(vocabulary.characters)


def byte_model(bytes_: bytes) -> CharacterModel:
    """A model of bytes that draws any of these, as good as evenly."""
    model = CharacterModel(256, ModelSettings(hidden_size=4, embedding_size=2, num_layers=1))
    with torch.no_grad():
        model.output_bias.fill_(-50.0)
        model.output_bias[list(bytes_)] = 0.0
    return model


def test_bytes_are_streamed_as_whole_characters() -> None:
    model = byte_model("€".encode())
    sampler = Sampler(model, Vocabulary.for_bytes(), SampleSettings(length=600, seed=1, prompt="é"))
    pieces = list(sampler.stream())
    assert len(pieces) == 600
    assert "€" in pieces  # by chance, when its three bytes came in order
    assert "" in pieces  # while they came
    assert {"€", "\N{REPLACEMENT CHARACTER}"} <= set("".join(pieces))
    assert sampler.generate_all()[0].text == "".join(pieces)


def test_incomplete_final_character_is_replaced() -> None:
    sampler = Sampler(byte_model("€".encode()[:1]), Vocabulary.for_bytes(), SampleSettings(length=1, seed=1))
    assert list(sampler.stream()) == ["\N{REPLACEMENT CHARACTER}"]


def test_stop_ban_and_allow_for_bytes() -> None:
    settings = SampleSettings(length=5000, seed=1, stop=("€b",))
    (sample,) = Sampler(byte_model("€b".encode()), Vocabulary.for_bytes(), settings).generate_all()
    assert sample.finish_reason == "stop"
    assert sample.text.endswith("€b")
    everything = byte_model(bytes(range(256)))
    (sample,) = Sampler(
        everything, Vocabulary.for_bytes(), SampleSettings(length=99, allow="ab", ban="b")
    ).generate_all()
    assert set(sample.text) == {"a"}


@pytest.mark.parametrize("settings", [{"ban": "é"}, {"allow": "aé"}])
def test_ban_with_multibyte_character_is_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--ban and --allow .* ASCII"):
        Sampler(byte_model(b"a"), Vocabulary.for_bytes(), SampleSettings(**settings))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("auto", 1e-3)])
def test_separator_starts_new_document(model: CharacterModel, precision: str, tolerance: float) -> None:
    options = SampleSettings(length=300, seed=5, num_samples=4, temperature=1.0, precision=precision)
    sampler = Sampler(model, VOCABULARY, options, CorpusSettings(document_separator="a\n"))
    for sample in sampler.generate_all():
        *ended, last = sample.text.split("a\n")
        assert ended  # with so few characters, some document ends
        expected = 0.0
        for document in [*(f"{text}a\n" for text in ended), last]:
            for length, character in enumerate(document):
                probabilities = next_probabilities(model, document[:length])
                expected += math.log(probabilities[VOCABULARY.characters.index(character)])
        assert sample.log_probability_nats == pytest.approx(expected, rel=tolerance)


def test_prompt_is_cut_to_its_last_document(model: CharacterModel) -> None:
    def continued(prompt: str) -> list[str]:
        options = SampleSettings(length=60, seed=5, prompt=prompt)
        return list(Sampler(model, VOCABULARY, options, CorpusSettings(document_separator="a\n")).stream())

    assert continued("bcda\ndeca\nfg") == continued("fg") != continued("bcdab\ndecab\nfg")
    assert continued("bca\n") == continued("")


def test_separator_may_start_in_prompt(model: CharacterModel) -> None:
    options = SampleSettings(length=2, seed=5, prompt="bcda", temperature=1.0, num_samples=40)
    samples = Sampler(model, VOCABULARY, options, CorpusSettings(document_separator="a\n")).generate_all()
    ending = [sample for sample in samples if sample.text[0] == "\n"]
    assert ending
    for sample in ending:
        first, second = (VOCABULARY.characters.index(character) for character in sample.text)
        expected = math.log(next_probabilities(model, "bcda")[first]) + math.log(next_probabilities(model, "")[second])
        assert sample.log_probability_nats == pytest.approx(expected, rel=1e-4)


def test_finished_sample_starts_no_document(model: CharacterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    def noted(start: Callable[..., None]) -> Callable[..., None]:
        def wrapper(self: object, state: Any, lanes: Any = slice(None)) -> None:
            started.append(lanes)
            start(self, state, lanes)

        return wrapper

    for kind in (Stepper, NativeSampler):
        monkeypatch.setattr(kind, "set_state", noted(kind.set_state))
    options = SampleSettings(length=300, seed=5, num_samples=4, stop=("a\n",))
    samples = Sampler(model, VOCABULARY, options, CorpusSettings(document_separator="a\n")).generate_all()
    assert [sample.finish_reason for sample in samples] == ["stop"] * 4
    assert started == [slice(None)]


def test_prompt_is_preprocessed_like_training_text(model: CharacterModel) -> None:
    lines = CorpusSettings(newline="lf", normalize="nfc")
    sampler = Sampler(model, VOCABULARY, SampleSettings(prompt="ab\r\nc\r"), lines)
    assert sampler.prompt_ids == VOCABULARY.encode("ab\nc\n").tolist()
    accented = Vocabulary(["a", "e", "\N{LATIN SMALL LETTER E WITH ACUTE}", *"bcdfg"])
    sampler = Sampler(model, accented, SampleSettings(prompt="e\N{COMBINING ACUTE ACCENT}a"), lines)
    assert sampler.prompt_ids == [2, 0]


@pytest.mark.parametrize("kernel", ["torch", "auto"])
@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"stop": ("ab", "c")}, "(?s).*?(ab|c)"),
        ({"stop": ("aab", "b"), "stop_at_newline": True}, "(?s).*?(b|\n)"),
        ({"stop_at_newline": True}, "[^\n]*\n"),
    ],
)
def test_a_sample_ends_at_the_first_of_its_ends_however_many_characters_are_drawn_at_once(
    model: CharacterModel, kernel: str, options: dict[str, Any], pattern: str
) -> None:
    model.recurrent.kernel = kernel
    try:
        for seed in range(20):
            (whole,) = sampler_of(model, length=200, seed=seed, temperature=1.5).generate_all()
            (sample,) = sampler_of(model, length=200, seed=seed, temperature=1.5, **options).generate_all()
            end = re.match(pattern, whole.text)
            assert sample.text == (end[0] if end else whole.text)
            assert sample.nats == whole.nats[: len(sample.text)]
            expected = "newline" if sample.text.endswith("\n") else "stop"
            assert sample.finish_reason == (expected if end else "length")
    finally:
        model.recurrent.kernel = "auto"
