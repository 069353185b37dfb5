"""Sizes of a model and of checkpoint files, computed from untrusted settings without allocating anything."""

from charlm.config import ModelSettings, TrainSettings
from charlm.model.cells import CELLS


def count_parameters(vocabulary_size: int, settings: ModelSettings) -> int:
    """Count the parameters of a model."""
    hidden, embedding = settings.hidden_size, settings.embedding_size
    rows = CELLS[settings.cell].num_gates * hidden
    recurrent = rows * (embedding + hidden + 1) + (settings.num_layers - 1) * rows * (2 * hidden + 1)
    output = vocabulary_size * (1 if settings.tie_weights else hidden + 1)
    return (vocabulary_size + 1) * embedding + recurrent + output


def max_tensor_bytes(vocabulary_size: int, settings: TrainSettings) -> dict[str, int]:
    """Upper limits of the tensor files' sizes: twice what these settings need, plus a margin for other content."""
    parameters = count_parameters(vocabulary_size, settings)
    recurrent = 2 * settings.num_layers * settings.batch_size * settings.hidden_size
    others = (1 << 20) + 2048 * settings.num_layers  # names and shapes, counts, random numbers
    return {
        "model.safetensors": 2 * 4 * parameters + others,
        "training_state.safetensors": 2 * 4 * (3 * parameters + recurrent) + others,
    }


def count_training_flops(vocabulary_size: int, settings: ModelSettings) -> float:
    """Multiplications and additions of the matrix products for one character: 2 per weight forward, 4 backward.

    The first layer's input is one of a few rows, whose products with its weights can be a table: they do not count.
    """
    square = CELLS[settings.cell].num_gates * settings.hidden_size**2
    return 6.0 * ((2 * settings.num_layers - 1) * square + vocabulary_size * settings.hidden_size)
