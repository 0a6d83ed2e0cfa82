"""Logging of every process: one line an event, to standard error. No text, key or token id is ever logged."""

import logging

from transformers.utils.logging import disable_progress_bar

FORMAT = "%(asctime)s %(levelname)-7s %(name)s [%(process)d] %(message)s"


def configure_logging(level: str) -> None:
    """Sets the format, our level, and silences libraries below a warning."""
    logging.basicConfig(level=logging.WARNING, format=FORMAT, force=True)
    logging.getLogger("valence").setLevel(level.upper())
    disable_progress_bar()  # the bar of a load would be a line of its own in the log
