"""Ctrl-C and SIGTERM ask the loop to stop after the update at hand; a second Ctrl-C does not wait."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

__all__ = ["StopRequest", "stop_requests"]


@final
class StopRequest:
    """Which signal came, 0 for none."""

    def __init__(self) -> None:
        self.signal = 0

    @property
    def name(self) -> str:
        """Of the signal, "" for none."""
        return signal.Signals(self.signal).name if self.signal else ""

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of dying of them; only the main thread can, elsewhere nothing is installed."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
