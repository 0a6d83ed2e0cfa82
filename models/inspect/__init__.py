"""What a checkpoint is made of: `python -m models.inspect CHECKPOINT`, or from Python

    subject = load_subject(Path("models/checkpoints/sentiment-bert"))    # after `register()`
    print(gradients(subject).as_text())

Each section is a function of a `Subject` in a file of its own; `inspect_checkpoint` calls them all.
"""

from models.inspect.attention_maps import attention
from models.inspect.config_lint import config
from models.inspect.explanation import explanation
from models.inspect.gradients import gradients
from models.inspect.initialisation import initialisation
from models.inspect.parameters import memory, parameters
from models.inspect.report import Section
from models.inspect.sections import SECTIONS, Options, inspect_checkpoint
from models.inspect.subject import Subject, load_subject
from models.inspect.summary import summary
from models.inspect.throughput import throughput
from models.registration import register

__all__ = [
    "SECTIONS",
    "Options",
    "Section",
    "Subject",
    "attention",
    "config",
    "explanation",
    "gradients",
    "initialisation",
    "inspect_checkpoint",
    "load_subject",
    "memory",
    "parameters",
    "register",
    "summary",
    "throughput",
]
