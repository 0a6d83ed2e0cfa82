"""`python -m models.publish CHECKPOINT --repo org/name`: puts a checkpoint on the Hugging Face Hub.

One commit with weights (safetensors), tokenizer, card and the architecture's own files, so that

    AutoModelForSequenceClassification.from_pretrained("org/name", trust_remote_code=True)

works where this repository was never seen. `HF_TOKEN` or `hf auth login` says who you are, `HF_ENDPOINT` another hub.
"""

import argparse
import ast
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from models.int8 import RANGES_FILE
from models.int8.ranges import fingerprint
from models.loading import load_classifier, tokenizer_folder
from models.registration import register

# What an architecture may import beside the standard library: transformers and what it brings are there wherever it is loaded.
LIBRARIES = frozenset({"torch", "transformers", "huggingface_hub", "numpy", "safetensors", "tokenizers"})
# Files of an earlier commit that are deleted: one that is not overwritten would be loaded along with the new ones, or instead.
REPLACED = ["*.py", "*.safetensors", "*.safetensors.index.json", "*.bin"]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when published; 2 when an argument is wrong or the hub refuses, which is said in one sentence."""
    options = parser().parse_args(arguments)
    disable_progress_bar()
    try:
        validate_repo_id(options.repo)
        if "/" not in options.repo:
            raise ValueError(f"--repo {options.repo}: write organisation/name")
        if options.dry_run is None and get_token() is None:
            raise ValueError("no token: set HF_TOKEN, or log in with `hf auth login`")
        if options.dry_run is not None and options.dry_run.exists() and any(options.dry_run.iterdir()):
            raise ValueError(f"--dry-run {options.dry_run}: the folder is not empty")
        register(options.import_module)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_folder(options.checkpoint, folder, repo=options.repo, tokenizer=options.tokenizer)
            print("\n".join(f"{path.stat().st_size:>12,}  {path.name}" for path in sorted(folder.iterdir())))
            if options.dry_run is None:
                print(push(folder, repo=options.repo, branch=options.revision, private=options.private))
            else:
                shutil.copytree(folder, options.dry_run, dirs_exist_ok=True)
    except (ValueError, OSError, ImportError, HTTPError, SafetensorError) as error:
        print(f"models.publish: {reason(error, repo=options.repo)}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m models.publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("checkpoint", type=Path, help="a checkpoint folder")
    result.add_argument("--repo", required=True, help="organisation/name; made where it does not exist")
    result.add_argument(
        "--revision", metavar="BRANCH", help="a branch to commit to instead of main; made where it does not exist"
    )
    result.add_argument("--private", action="store_true", help="make the repository a private one")
    result.add_argument("--dry-run", type=Path, metavar="FOLDER", help="write what would be pushed into FOLDER, and push nothing")
    result.add_argument("--tokenizer", type=Path, help="its folder, where it is not the one that the checkpoint names")
    result.add_argument("--import-module", action="append", default=[], help="a module that registers the architecture")
    return result


def write_folder(checkpoint: Path, folder: Path, *, repo: str, tokenizer: Path | None = None) -> None:
    """What a repository of the hub holds of `checkpoint`. Raises ValueError where that would not stand alone, OSError where a
    file is missing."""
    model = load_classifier(checkpoint)
    loaded = AutoTokenizer.from_pretrained(tokenizer or tokenizer_folder(checkpoint, model), trust_remote_code=False)
    if hasattr(model.config, "tokenizer_name"):
        model.config.tokenizer_name = None  # it lies beside the weights now
    with code_included(model):
        model.save_pretrained(folder)
    loaded.save_pretrained(folder)
    check_stands_alone(folder)
    card(checkpoint, repo=repo, code=any(folder.glob("*.py"))).save(folder / "README.md")
    for picture in checkpoint.glob("*.png"):  # the card shows it
        shutil.copy(picture, folder)
    if (checkpoint / RANGES_FILE).is_file() and fingerprint(folder) == fingerprint(checkpoint):
        shutil.copy(checkpoint / RANGES_FILE, folder)


@contextmanager
def code_included(model: PreTrainedModel) -> Iterator[None]:
    """Has `save_pretrained` copy the files of an architecture that transformers does not ship, and name its classes in the
    config: the classifier, the configuration and, where it is another class, the base model."""
    classifier, base = type(model), type(model.base_model)
    if classifier.__module__.startswith("transformers."):
        yield
        return
    type(model.config).register_for_auto_class("AutoConfig")
    classifier.register_for_auto_class("AutoModelForSequenceClassification")
    if base is not classifier:
        model.config.auto_map = {"AutoModel": f"{base.__module__.rpartition('.')[2]}.{base.__name__}"}
    try:
        yield
    finally:  # the mark is on the class, and would hold for whatever is saved next
        del classifier._auto_class, type(model.config)._auto_class


def check_stands_alone(folder: Path) -> None:
    """ValueError for a copied file that imports what only this repository has. transformers copies the files that a module
    imports as `from .name import ...`, and nothing else."""
    for path in sorted(folder.glob("*.py")):
        for module in imports(path):
            top = module.partition(".")[0]
            if module.startswith("."):
                found = module.count(".") == 1 and (folder / f"{module[1:]}.py").is_file()
            else:
                found = top in LIBRARIES or top in sys.stdlib_module_names
            if not found:
                raise ValueError(
                    f"{path.name} imports {module!r}, which is not there where it will be loaded; import from torch, "
                    "transformers and files beside it (from .name import ...) only"
                )


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports at any place, with the dots of a relative one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def card(checkpoint: Path, *, repo: str, code: bool) -> ModelCard:
    """The checkpoint's own card, or an empty one, with a section that says how to load it."""
    path = checkpoint / "README.md"
    if path.is_file():
        content = path.read_text(encoding="utf-8")
    else:
        data = ModelCardData(library_name="transformers", pipeline_tag="text-classification")
        content = f"---\n{data.to_yaml().strip()}\n---\n\n# {repo.partition('/')[2]}\n"
    trust = ", trust_remote_code=True" if code else ""
    return ModelCard(f"""{content.rstrip()}

## Load it

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}"{trust})
model = AutoModelForSequenceClassification.from_pretrained("{repo}"{trust})
```
""")


def push(folder: Path, *, repo: str, branch: str | None, private: bool) -> str:
    """Pushes the folder in one commit and returns the commit's address. ValueError where `private` is asked for a repository that
    is public already."""
    api = HfApi()
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.model_info(repo).private:
        raise ValueError(f"{repo} is there already and is public: nothing was pushed")
    if branch is not None:
        api.create_branch(repo, branch=branch, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo, folder_path=folder, revision=branch, commit_message="Upload model", delete_patterns=REPLACED
    )
    return str(commit.commit_url)


def reason(error: Exception, *, repo: str) -> str:
    """One line."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"{constants.ENDPOINT} does not let this token write to {repo} (status {status})"
        return f"{constants.ENDPOINT} refused {repo} with status {status}: {error.server_message or 'no reason given'}"
    if isinstance(error, HTTPError):
        return f"{constants.ENDPOINT} can't be reached: {error}"
    if isinstance(error, HFValidationError):
        return f"--repo {repo}: write organisation/name of letters, digits, '-', '_' and '.'"
    return str(error).strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
