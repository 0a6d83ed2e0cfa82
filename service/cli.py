"""`valence`: every command under one name. Each is `python -m MODULE` with the same arguments, `--help` included.

`eval "$(_VALENCE_COMPLETE=bash_source valence)"` in `~/.bashrc` turns completion on: of commands, of the settings of `serve`, and
of files. `zsh_source` and `fish_source` do so for other shells. The options of other commands are not completed: their parsers
come with torch.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator

import click
from click.shell_completion import CompletionItem

from service import __version__


def settings() -> Iterator[CompletionItem]:
    """The flags of `serve`."""
    from service.settings import Settings  # pydantic takes longer than all else here

    for name, field in Settings.model_fields.items():
        yield CompletionItem(f"--{name.replace('_', '-')}", help=field.description)


class ModuleCommand(click.Command):
    """`python -m module`. Nothing of its command line is read here."""

    def __init__(self, name: str, module: str, help: str, *, options: Callable[[], Iterable[CompletionItem]] = tuple) -> None:
        super().__init__(name, help=help, add_help_option=False)
        self.module = module
        self.options = options

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leaves them all; click's own would take a `--` away."""
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> None:
        """Becomes that command. The process keeps its number: signals reach the command, and its exit status is the command's.

        Not `runpy` in this process: spawned workers import again what `__main__` was started from, which must be the module, and
        forked ones would hold what this file has imported."""
        os.execv(sys.executable, [sys.executable, "-m", self.module, *ctx.args])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Options after a hyphen, else files."""
        if incomplete.startswith("-"):
            return [option for option in self.options() if option.value.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file")]


COMMANDS = {
    "Serve": [
        ModuleCommand("serve", "service", "Serve models over HTTP.", options=settings),
    ],
    "Score files": [
        ModuleCommand("bulk", "service.bulk", "Score files of texts, on this machine or on a Ray cluster."),
    ],
    "Models": [
        ModuleCommand("new", "models.new", "Start an architecture of your own."),
        ModuleCommand("tokenizers", "tokenizers_store", "Train a tokenizer, or compare the kinds."),
        ModuleCommand("pretrain", "models.training.pretraining", "Train a BERT to fill masks, from nothing."),
        ModuleCommand("train", "models.training", "Train classifiers, or print their quality."),
        ModuleCommand("add-tokens", "models.add_tokens", "Give a trained classifier more words."),
        ModuleCommand("int8", "models.int8", "Prepare a checkpoint for int8."),
        ModuleCommand("inspect", "models.inspect", "Show what a checkpoint is made of."),
        ModuleCommand("tiny", "models.tiny", "Make tiny checkpoints of what transformers has."),
        ModuleCommand("publish", "models.publish", "Put a checkpoint on the Hugging Face Hub."),
    ],
    "Measure": [
        ModuleCommand("forward-rate", "service.measure.forward_rate", "What the forward does without HTTP."),
        ModuleCommand("request-path", "service.measure.request_path", "Which files a request passes."),
        ModuleCommand("profile-forward", "service.measure.profile_forward", "Where the forward's time goes."),
        ModuleCommand("cpu-layers", "service.measure.cpu_layers", "What our CPU layers gain over torch's."),
        ModuleCommand("fidelity", "service.measure.fidelity", "How far scores are from transformers' own."),
        ModuleCommand("long-texts", "service.measure.long_texts", "What windows gain over cutting."),
        ModuleCommand("attention", "models.attention.compare", "What attention patterns cost."),
        ModuleCommand("training", "models.training.compare", "What training aids do."),
    ],
}


class Valence(click.Group):
    """Lists the commands of `measure` with its own."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                before = "measure " if section == "Measure" else ""
                formatter.write_dl([(before + str(command.name), str(command.help)) for command in commands])


cli = Valence(
    commands=[
        *COMMANDS["Serve"],
        *COMMANDS["Score files"],
        *COMMANDS["Models"],
        click.Group("measure", COMMANDS["Measure"], help="Measure what a part does."),
    ],
    help="Text classifiers of your own. `valence COMMAND --help` tells a command's options.",
)
click.version_option(__version__, message="%(prog)s %(version)s")(cli)


def main() -> None:
    """The console script."""
    cli(prog_name="valence")
