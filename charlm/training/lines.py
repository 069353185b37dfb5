"""When a line is due where no progress bar can be shown: in a file, in the log of a cluster's job."""

import time

LINE_SECONDS = 10.0
SAMPLE_SECONDS = 60.0  # a sample has several lines


class SparseLines:
    """At most one line every ten seconds, and a sample a minute; the first and the last are always due."""

    def __init__(self) -> None:
        self.line_at = self.sample_at = -float("inf")
        self.start()

    def start(self) -> None:
        """From now on there is progress, and time left can be told from it."""
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
        """``, 2:05 left``, from the time since the first look; nothing before there is a second one."""
        now = time.monotonic()
        if self.started_at is None:
            self.started_at, self.first_progress = now, progress
        gained = progress - self.first_progress
        if gained <= 0 or progress >= 1:
            return ""
        seconds = round((now - self.started_at) * (1 - progress) / gained)
        hours, minutes = divmod(seconds // 60, 60)
        return f", {hours}:{minutes:02}:{seconds % 60:02} left" if hours else f", {minutes}:{seconds % 60:02} left"
