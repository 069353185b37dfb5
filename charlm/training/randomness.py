"""States of the random number generators of training: the CPU's, and that of the device, used for dropout."""

import torch
from torch import Tensor

CPU = "rng_state.cpu"


def rng_states(device: torch.device) -> dict[str, Tensor]:
    """The generator states, by their names in a checkpoint."""
    states = {CPU: torch.get_rng_state()}
    if device.type == "cuda":
        states["rng_state.cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["rng_state.mps"] = torch.mps.get_rng_state()
    return states


def set_rng_states(device: torch.device, states: dict[str, Tensor]) -> None:
    """Restore the states from :func:`rng_states`, on a device of the same type."""
    torch.set_rng_state(states[CPU])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["rng_state.cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["rng_state.mps"])
