"""The progress bar of work that takes long enough to be in the way of other programs."""

from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from charlm.model.sharing import ThreadBalancer


class SharingBar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers only
    """A bar that takes fewer threads, each time it advances, while other programs need the processors."""

    def __init__(self, *args: Any, balancer: "ThreadBalancer", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.balancer = balancer

    def update(self, n: float | None = 1) -> bool | None:
        self.balancer.balance()
        return super().update(n)
