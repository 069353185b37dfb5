"""How large a model is and the files of a checkpoint can be, by settings that may claim anything: nothing is made."""

from charlm.config import ModelSettings, TrainSettings
from charlm.model.cells import CELLS


def count_parameters(vocabulary_size: int, settings: ModelSettings) -> int:
    """How many numbers the weights are."""
    hidden, embedding = settings.hidden_size, settings.embedding_size
    rows = CELLS[settings.cell].num_gates * hidden
    recurrent = rows * (embedding + hidden + 1) + (settings.num_layers - 1) * rows * (2 * hidden + 1)
    output = vocabulary_size * (1 if settings.tie_weights else hidden + 1)
    return (vocabulary_size + 1) * embedding + recurrent + output


def max_tensor_bytes(vocabulary_size: int, settings: TrainSettings) -> dict[str, int]:
    """The most that the files of tensors can have: twice what these settings need, and room for what is not weights."""
    parameters = count_parameters(vocabulary_size, settings)
    recurrent = 2 * settings.num_layers * settings.batch_size * settings.hidden_size
    others = (1 << 20) + 2048 * settings.num_layers  # names and shapes, counts, random numbers
    return {
        "model.safetensors": 2 * 4 * parameters + others,
        "training_state.safetensors": 2 * 4 * (2 * parameters + recurrent) + others,
    }
