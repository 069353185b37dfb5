"""The ranks that torchrun started, connected by torch.distributed: gloo between CPUs, NCCL between GPUs.

What may take long does not wait inside a collective operation, which has a time limit, but for a key in the store that
torchrun runs for its processes.
"""

import json
import math
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from charlm.errors import CharlmError, UsageError, pluralize
from charlm.evaluation.loss import Losses
from charlm.machine import count_local_processes, is_started_by_torchrun
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.training.ranks import GradientExchange, Ranks, Status

TIMEOUT = timedelta(minutes=15)  # of one exchange: more than any step or save takes
POLL_SECONDS = 0.1
BUCKET_ELEMENTS = 1 << 18  # gradients that are sent together; the first are sent while others are being computed
CONNECTION_ERRORS = ("gloo", "Connection", "NCCL", "Broken pipe", "Timed out", "timed out", "recvValue", "sendBytes")


@cache
def join_ranks() -> Ranks:
    """The processes that torchrun started, this one among them; or this one alone.

    Raises ``CharlmError`` if the others cannot be reached.
    """
    if not is_started_by_torchrun() or os.environ["WORLD_SIZE"] == "1":
        return Ranks()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, number, count = next(rendezvous("env://", timeout=TIMEOUT))
        store = dist.PrefixStore(_agree_on_start(store, number, count), store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise CharlmError(
            f"Process {os.environ.get('RANK')} cannot connect to the others: {_explain(error)}.",
            "If their network interface is not the default one, set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.",
        ) from None
    return ConnectedRanks(store, number, count)


def _agree_on_start(store: Any, number: int, count: int) -> str:
    """A name for this start of all processes, for their keys: the store still has those from before a restart.

    Rank 0 invents it, and confirms it to those processes that took it up since then.
    """
    own_name, name = uuid.uuid4().hex, ""
    if not number:
        store.set("charlm/start", own_name)
        others = [_wait_for(store, f"charlm/{own_name}/{other}").decode() for other in range(1, count)]
        store.set(f"charlm/{own_name}", json.dumps(others))
        return own_name
    while not (name and store.check([f"charlm/{name}"]) and own_name in json.loads(store.get(f"charlm/{name}"))):
        name = _wait_for(store, "charlm/start").decode()
        store.set(f"charlm/{name}/{number}", own_name)
        time.sleep(POLL_SECONDS)
    return name


def _wait_for(store: Any, key: str) -> bytes:
    """The value of a key as soon as it is there."""
    while not store.check([key]):
        time.sleep(POLL_SECONDS)
    value: bytes = store.get(key)
    return value


class ConnectedRanks(Ranks):
    """One of several processes."""

    def __init__(self, store: Any, number: int, count: int) -> None:
        self.store, self.number, self.count = store, number, count
        self.keys_used = 0
        self.sent = torch.zeros(0)  # and, when it has arrived, received
        self.sharing: dist.Work | None = None

    # At the start

    def choose_device(self, device: torch.device) -> torch.device:
        if device.type == "cpu":
            return device
        if device.type != "cuda" or device.index is not None:
            raise UsageError(f"--device {device}: several processes cannot share a GPU.", "Use --device cuda, or cpu.")
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            found = pluralize(torch.cuda.device_count(), "CUDA device")
            raise UsageError(
                f"--device {device}: {count_local_processes()} processes on this machine, but {found}.",
                "Start one process for each GPU with torchrun --nproc-per-node, or use --device cpu.",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        return device

    def check_same(self, facts: Mapping[str, Any]) -> None:
        key = self._next_key()
        self.store.set(f"{key}/{self.number}", json.dumps(facts))
        if not self.is_main:
            _wait_for(self.store, f"{key}/same")
            return
        for other in range(1, self.count):
            theirs = json.loads(_wait_for(self.store, f"{key}/{other}"))
            if different := [name for name, value in facts.items() if theirs.get(name) != value]:
                raise UsageError(
                    f"Process {other} differs from process 0 in: {', '.join(different)}.",
                    "Start all processes with the same command, version of charlm, and files.",
                )
        self.store.set(f"{key}/same", "")

    @torch.no_grad()
    def copy_weights(self, *models: CharacterModel) -> None:
        for weight in (weight for model in models for weight in model.parameters()):
            dist.broadcast(weight.data, 0)

    # One after another

    @contextmanager
    def main_first(self) -> Iterator[None]:
        key = self._next_key()
        if not self.is_main:
            _wait_for(self.store, key)
        yield
        if self.is_main:
            self.store.set(key, "")

    def compute_on_main(self, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        key = self._next_key()
        if self.is_main:
            result = compute()
            self.store.set(key, json.dumps(result))
            return result
        computed: dict[str, Any] = json.loads(_wait_for(self.store, key))
        return computed

    # In a step

    def exchange_gradients(self, model: CharacterModel) -> GradientExchange:
        return OverlappingExchange(model)

    def start_sharing(self, seconds: float, signal: int) -> None:
        """The largest of all: of the seconds, which only rank 0 sends, and of the signals."""
        self.sent = torch.tensor([seconds if self.is_main else -math.inf, signal], dtype=torch.float64)
        self.sharing = dist.all_reduce(self.sent, dist.ReduceOp.MAX, async_op=True)

    def finish_sharing(self) -> None:
        assert self.sharing is not None, "sharing has been started"
        self.sharing.wait()
        seconds, signal = self.sent.tolist()
        self.shared_status = Status(seconds, int(signal))

    def reset_status(self, status: Status) -> None:
        self.shared_status = status

    # Now and then

    def decide(self, *values: float) -> tuple[float, ...]:
        decided = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(decided, 0)
        return tuple(decided.tolist())

    def add_up(self, values: Losses) -> Losses:
        total = torch.from_numpy(values)
        dist.all_reduce(total)
        return values

    def share_of(self, lanes: range) -> range:
        return lanes[len(lanes) * self.number // self.count : len(lanes) * (self.number + 1) // self.count]

    def gather_lanes(self, state: State) -> State:
        return tuple(self._gather(part.detach().cpu().contiguous()) for part in state)

    def _gather(self, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(self.count)] if self.is_main else None
        dist.gather(part, parts, 0)
        return part if parts is None else torch.cat(parts, dim=1)

    @contextmanager
    def report_lost_ranks(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not any(words in str(error) for words in CONNECTION_ERRORS):
                raise
            raise CharlmError(
                f"Process {self.number} lost the connection to another process: {_explain(error)}.",
                "Saved checkpoints are intact; continue with the same command and --resume auto.",
            ) from None

    # The store

    def _next_key(self) -> str:
        self.keys_used += 1
        return f"charlm/{self.keys_used}"


class OverlappingExchange(GradientExchange):
    """Gradients are sent in buckets, from the output to the embedding, while earlier layers are still being computed.

    All ranks send the same buckets in the same order.
    """

    def __init__(self, model: CharacterModel) -> None:
        self.buckets: list[list[nn.Parameter]] = [[]]
        layers = [weight for module in model.children() for weight in module.parameters()]
        for weight in (*model.parameters(recurse=False), *reversed(layers)):  # those of the output are their own
            if sum(each.numel() for each in self.buckets[-1]) >= BUCKET_ELEMENTS:
                self.buckets.append([])
            self.buckets[-1].append(weight)
        for number, bucket in enumerate(self.buckets):
            for weight in bucket:
                hook = partial(self._on_gradient, number)
                weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        self.is_started = False

    def start(self, loss: Tensor) -> None:
        super().start(loss)
        self.is_started = True
        self.missing = [len(bucket) for bucket in self.buckets]
        self.sent: list[tuple[Tensor, dist.Work]] = []

    def _on_gradient(self, number: int, weight: nn.Parameter) -> None:
        if not self.is_started:  # more windows follow
            return
        self.missing[number] -= 1
        while len(self.sent) < len(self.buckets) and not self.missing[len(self.sent)]:
            self._send(self.buckets[len(self.sent)])

    def _send(self, bucket: list[nn.Parameter]) -> None:
        parts = [cast(Tensor, weight.grad).flatten() for weight in bucket]
        if bucket is self.buckets[-1]:
            parts.append(self.loss.view(1))
        flat = torch.cat(parts)
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None, "it is asynchronous"
        self.sent.append((flat, work))

    def finish(self) -> Tensor:
        assert len(self.sent) == len(self.buckets), "every weight has a gradient"
        self.is_started = False
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            start = 0
            for weight in bucket:
                weight.grad = flat[start : start + weight.numel()].view_as(weight)
                start += weight.numel()
        return self.sent[-1][0][-1]


def _explain(error: Exception) -> str:
    """The first sentence of a library's message, without the line of its code."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(.*)\[/\S+\] ", r"\1", line).split(". ")[0].rstrip(".,")
