"""Rate-limit log lines where no progress bar is shown, as in a file or a cluster's job log."""

import time

LINE_SECONDS = 10.0
SAMPLE_SECONDS = 60.0  # samples have several lines


class SparseLines:
    """At most one line per ten seconds and one sample per minute; the first and the last are always due."""

    def __init__(self) -> None:
        self.line_at = self.sample_at = -float("inf")
        self.start()

    def start(self) -> None:
        """Start measuring progress, to estimate the time left."""
        self.started_at: float | None = None
        self.first_progress = 0.0

    def is_due(self, is_last: bool) -> bool:
        now = time.monotonic()
        if not is_last and now - self.line_at < LINE_SECONDS:
            return False
        self.line_at = now
        return True

    def is_sample_due(self) -> bool:
        now = time.monotonic()
        if now - self.sample_at < SAMPLE_SECONDS:
            return False
        self.sample_at = now
        return True

    def time_left(self, progress: float) -> str:
        """``, 2:05 left``, estimated since the first call; empty on the first call."""
        now = time.monotonic()
        if self.started_at is None:
            self.started_at, self.first_progress = now, progress
        gained = progress - self.first_progress
        if gained <= 0 or progress >= 1:
            return ""
        seconds = round((now - self.started_at) * (1 - progress) / gained)
        hours, minutes = divmod(seconds // 60, 60)
        return f", {hours}:{minutes:02}:{seconds % 60:02} left" if hours else f", {minutes}:{seconds % 60:02} left"
