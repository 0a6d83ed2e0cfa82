"""Once imported, makes every process that is forked later note each line of our code that runs between one SIGUSR1 and the next.

`service.measure.request_path` has a service import it, as an operator's module. The lines are written to `traced.<process>` in
the runtime folder.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = f"{Path(__file__).parents[2]}/"
OURS = tuple(ROOT + folder for folder in ("service/", "models/", "tokenizers_store/"))


class LineTracer:
    """Notes the lines of one process."""

    def __init__(self) -> None:
        self.path = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], f"traced.{os.getpid()}")
        self.lines: list[tuple[int, str, str, int]] = []
        self.is_on = False

    def start(self) -> None:
        """Follows every frame that begins from now on."""
        self.path.touch()
        signal.signal(signal.SIGUSR1, self.turn)
        threading.settrace(self.enter)
        sys.settrace(self.enter)

    def turn(self, signum: int, frame: FrameType | None) -> None:
        """Turns the noting of lines on; or off, and writes the lines."""
        self.is_on = not self.is_on
        if not self.is_on:
            self.path.write_text(json.dumps(self.lines))
        self.lines = []

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        """The tracer of one frame; None for a frame of other code than ours, and for one that begins while it is off."""
        file = frame.f_code.co_filename
        if not self.is_on or not file.startswith(OURS) or file == __file__:
            return None
        name = threading.current_thread().name
        process = Path("/proc/self/comm").read_text().strip() + (" io" if name == "worker-io" else "")

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line" and self.is_on:
                self.lines.append((time.monotonic_ns(), process, file.removeprefix(ROOT), frame.f_lineno))
            return line

        return line


os.register_at_fork(after_in_child=lambda: LineTracer().start())
