"""Signal handling during training: the first signal saves and stops, the second quits immediately.

Besides Ctrl-C and SIGTERM these are SIGHUP, which a terminal sends when it is closed; SIGUSR1, with which Slurm warns
before a job's time is up (``--signal=USR1@60``); and Ctrl-Break on Windows. Not every system has all of them.
"""

import signal
import threading
from types import FrameType
from typing import Any

from charlm.files import write_stderr_unbuffered

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK")


class StopSignals:
    """``received``: the number of the signal that requested the stop, or 0.

    ``is_shared``: several processes stop together. Each may get a signal twice, from torchrun and from a scheduler, so
    only the first counts; torchrun itself kills those that do not end in time.
    """

    def __init__(self, quiet: bool, is_shared: bool = False) -> None:
        self.received = 0
        self.quiet = quiet
        self.is_shared = is_shared
        self.previous_handlers: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
            return
        for number in (getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)):
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the run should survive its terminal
            self.previous_handlers[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Restore the previous handlers."""
        while self.previous_handlers:
            signal.signal(*self.previous_handlers.popitem())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and not self.is_shared:
            raise SystemExit(128 + number)
        if not self.received and not self.quiet:
            again = "" if self.is_shared else " Interrupt again to quit immediately, without saving."
            write_stderr_unbuffered(f"\nSaving and stopping after this step.{again}\n")
        self.received = self.received or number
