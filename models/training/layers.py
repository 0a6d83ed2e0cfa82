"""The layers of any architecture by depth: which to freeze, and how fast each learns."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def layer_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name and modules of the longest list of layers, the first one of equals. Raises ValueError where there is none."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} keeps no nn.ModuleList of layers, so none can be frozen or slowed by depth")
    return max(lists, key=lambda found: len(found[1]))


def depths(model: PreTrainedModel) -> dict[str, int]:
    """The depth of each parameter: 0 for what is registered before the layers (embeddings), 1 to n for the n layers, n + 1 for
    what comes after them (pooler, classifier).

    A parameter that is tied to another is listed once, at its first place, as by `named_parameters`.
    """
    prefix, layers = layer_list(model)
    found: dict[str, int] = {}
    passed = False
    for name, _ in model.named_parameters():
        if name.startswith(f"{prefix}."):
            passed = True
            found[name] = int(name.removeprefix(f"{prefix}.").partition(".")[0]) + 1
        else:
            found[name] = len(layers) + 1 if passed else 0
    return found


def frozen_names(model: PreTrainedModel, layers: int) -> list[str]:
    """The parameters of the embeddings and the first `layers` layers. Raises ValueError unless there are so many layers."""
    _, every = layer_list(model)
    if not 0 <= layers <= len(every):
        there = f"{type(model).__name__} has {len(every)} layers"
        raise ValueError(f"freeze is {layers}, but {there}: 0 freezes the embeddings alone")
    return [name for name, depth in depths(model).items() if depth <= layers]


def freeze(model: PreTrainedModel, layers: int) -> None:
    """Lets the embeddings and the first `layers` layers learn no more, and the others learn."""
    frozen = set(frozen_names(model, layers))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def parameter_groups(
    model: PreTrainedModel, *, learning_rate: float, layer_decay: float, weight_decay: float, decayed: Sequence[str]
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the classifier learns at `learning_rate`, each depth below at `layer_decay` times the one above
    (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2). `decayed` names the parameters that `weight_decay` is
    for."""
    depth_of = depths(model)
    top = max(depth_of.values())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depth_of[name], name in decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay ** (top - depth),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (depth, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
