"""The progress bar of work that takes long enough to be in the way of other programs."""

from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from charlm.console import console, is_watched

if TYPE_CHECKING:
    from charlm.model.sharing import ThreadBalancer


class BalancedBar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers only
    """A bar that takes fewer threads, each time it advances, while other programs need the processors."""

    def __init__(self, balancer: "ThreadBalancer", quiet: bool, **options: Any) -> None:
        super().__init__(file=console, disable=quiet or not is_watched(), **options)
        self.balancer = balancer

    def update(self, n: float | None = 1) -> bool | None:
        self.balancer.balance()
        return super().update(n)
