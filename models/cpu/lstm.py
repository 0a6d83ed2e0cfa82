"""LSTMs on a CPU by a kernel of our own, for a model that is served.

torch multiplies the recurrent weights by the texts of one step at a time. For each of these products MKL brings the weights into
its order, and the gates take ten operators more. Here the weights lie in the kernel's order from the start, and a unit's gates
never leave the registers. `sentiment-lstm` in float32 takes 13.5 ms for 32 texts on a core of a Zen 5 processor, instead of 33.4.

`T` tokens, `S` texts, `I` input width, `H` hidden width, `D` directions, `V` units in a vector.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from models.cpu.library import built, has_kernels
from models.cpu.linear import has_prepacked, prepacked

GATES = 4
Hidden = tuple[torch.Tensor, torch.Tensor]


class KernelLstm(nn.LSTM):
    """`lstm` with a second copy of its weights, in the kernel's order. Where a gradient is asked for, or what the kernel lacks,
    it computes as before."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__(
            lstm.input_size,
            lstm.hidden_size,
            num_layers=lstm.num_layers,
            bias=lstm.bias,
            batch_first=lstm.batch_first,
            dropout=lstm.dropout,
            bidirectional=lstm.bidirectional,
            device="meta",
        )
        for name, parameter in lstm.named_parameters():
            setattr(self, name, parameter)
        self.train(lstm.training)
        self.directions = 2 if self.bidirectional else 1
        # Tuples, so that none of their weights counts as a parameter.
        self.inputs = tuple(prepacked(self._input_layer(layer)) for layer in range(self.num_layers))
        self.is_prepacked = any(map(has_prepacked, self.inputs))
        self.recurrent = tuple(self._recurrent_weights(layer) for layer in range(self.num_layers))

    @torch.compiler.disable  # torch.compile can't see through the kernel
    def forward(
        self, input: torch.Tensor | PackedSequence, hx: Hidden | None = None
    ) -> tuple[torch.Tensor | PackedSequence, Hidden]:
        """As nn.LSTM: the output in the form of the input, and the last states (layers * D, S, H)."""
        is_pack = isinstance(input, PackedSequence)
        if torch.is_grad_enabled() or self.training or hx is not None or not (is_pack or input.dim() == 3):
            return super().forward(input, hx)
        if is_pack:
            output, hidden, cells = self._read(input.data, input.batch_sizes)
            if input.unsorted_indices is not None:
                hidden, cells = (states.index_select(1, input.unsorted_indices) for states in (hidden, cells))
            return PackedSequence(output, input.batch_sizes, input.sorted_indices, input.unsorted_indices), (hidden, cells)
        steps = input.transpose(0, 1) if self.batch_first else input
        if not steps.shape[0] * steps.shape[1]:
            return super().forward(input, hx)
        output, hidden, cells = self._read(steps.flatten(0, 1), torch.full((len(steps),), steps.shape[1]))
        output = output.unflatten(0, steps.shape[:2])
        return output.transpose(0, 1) if self.batch_first else output, (hidden, cells)

    def _read(self, states_TI: torch.Tensor, batch_sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Output (T, D H), last outputs and cells (layers * D, S, H)."""
        lasts = []
        for inputs, weights in zip(self.inputs, self.recurrent, strict=True):
            output, cells_DSH = read_texts(inputs(states_TI).float(), weights, batch_sizes)
            states_TI = output.to(states_TI.dtype)
            lasts.append((last_outputs(states_TI, batch_sizes, self.hidden_size), cells_DSH.to(states_TI.dtype)))
        hidden, cells = (torch.cat(states) for states in zip(*lasts, strict=True))
        return states_TI, hidden, cells

    def _named(self, name: str, layer: int) -> list[torch.Tensor]:
        """A parameter of a layer in each direction, detached."""
        return [getattr(self, f"{name}_l{layer}{suffix}").detach() for suffix in ("", "_reverse")[: self.directions]]

    def _input_layer(self, layer: int) -> nn.Linear:
        """Computes what the input adds to the gates, in the order in which the kernel reads them."""
        weight = torch.cat([_by_units(each) for each in self._named("weight_ih", layer)])
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=self.bias, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias:
            pairs = zip(self._named("bias_ih", layer), self._named("bias_hh", layer), strict=True)
            linear.bias = nn.Parameter(torch.cat([_by_units(first + second) for first, second in pairs]), requires_grad=False)
        return linear

    def _recurrent_weights(self, layer: int) -> torch.Tensor:
        """(D, H / V, H, 4, V) float32."""
        lanes = built().lane_count()
        turned = [
            _by_units(weight).unflatten(0, (-1, GATES, lanes)).permute(0, 3, 1, 2) for weight in self._named("weight_hh", layer)
        ]
        return torch.stack(turned).float().contiguous()


def replace_lstms(model: nn.Module) -> int:
    """Replaces the LSTMs that the kernel can compute, and returns how many. The parameters keep their names, but a later change
    of their values or type does not reach the scores."""
    names = [name for name, layer in model.named_modules() if type(layer) is nn.LSTM and _gains(layer)]
    for name in names:
        model.set_submodule(name, KernelLstm(model.get_submodule(name)))
    return len(names)


def _gains(layer: nn.LSTM) -> bool:
    weight = layer.weight_ih_l0
    fits = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and not layer.proj_size
    return fits and has_kernels() and layer.hidden_size % built().lane_count() == 0


def _by_units(rows: torch.Tensor) -> torch.Tensor:
    """Rows of gates i, f, g, o with H units each -> blocks of V units, each with its four gates."""
    lanes = built().lane_count()
    return rows.unflatten(0, (GATES, -1, lanes)).transpose(0, 1).flatten(0, 2)


def last_outputs(output_TU: torch.Tensor, batch_sizes: torch.Tensor, hidden: int) -> torch.Tensor:
    """(D, S, H): each text's output at its last token, and of the other direction at its first.

    >>> last_outputs(torch.tensor([[1.0, -1], [2, -2], [3, -3]]), torch.tensor([2, 1]), 1).tolist()
    [[[3.0], [2.0]], [[-1.0], [-2.0]]]
    """
    texts = int(batch_sizes[0])
    lengths_S = (batch_sizes.unsqueeze(1) > torch.arange(texts)).sum(0)
    last_S = (batch_sizes.cumsum(0) - batch_sizes)[lengths_S - 1] + torch.arange(texts)
    ends = [output_TU[last_S, :hidden]]
    if output_TU.shape[1] > hidden:
        ends.append(output_TU[:texts, hidden:])
    return torch.stack(ends)


def read_texts(gates_TG: torch.Tensor, weights: torch.Tensor, batch_sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (T, D H) and last cells (D, S, H), float32. Raises ValueError for batch sizes that do not cut the tokens."""
    directions, _, hidden, *_ = weights.shape
    tokens = len(gates_TG)
    gates_TG, batch_sizes = gates_TG.contiguous(), batch_sizes.contiguous()
    output = torch.empty(tokens, directions * hidden)
    cells = torch.zeros(directions, int(batch_sizes[0]), hidden)
    failed = built().lstm(
        gates_TG.data_ptr(), weights.data_ptr(), output.data_ptr(), cells.data_ptr(), batch_sizes.data_ptr(),
        len(batch_sizes), tokens, hidden, directions, torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise ValueError(f"batch_sizes must fall from step to step and sum up to {tokens} tokens")
    return output, cells
