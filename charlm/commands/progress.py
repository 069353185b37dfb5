"""The progress bar of a computation long enough to compete with other programs."""

from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from charlm.console import console, is_watched

if TYPE_CHECKING:
    from charlm.model.sharing import ThreadBalancer


class BalancedBar(tqdm):  # type: ignore[type-arg]  # tqdm is generic for type checkers only
    """A bar that adapts the number of threads to the load of other programs whenever it advances."""

    def __init__(self, balancer: "ThreadBalancer", quiet: bool, **options: Any) -> None:
        super().__init__(file=console, disable=quiet or not is_watched(), **options)
        self.balancer = balancer

    def update(self, n: float | None = 1) -> bool | None:
        self.balancer.balance()
        return super().update(n)
