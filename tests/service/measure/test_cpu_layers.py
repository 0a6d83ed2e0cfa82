"""The comparison of our CPU layers with torch's, on tiny checkpoints."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from models.cpu.lstm import KernelLstm, has_kernels
from service.engine.engine import Engine
from service.measure import cpu_layers


@pytest.mark.skipif(not has_kernels(), reason="needs the kernels")
def test_both_sides_score_alike_by_their_own_layers(
    checkpoints: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = []
    logits = Engine.logits

    def noting(engine: Engine, *args: object) -> object:
        layers.append({type(layer) for layer in engine.model.modules() if isinstance(layer, nn.LSTM)})
        return logits(engine, *args)

    monkeypatch.setattr(Engine, "logits", noting)
    monkeypatch.setattr(cpu_layers, "BATCHES", (1, 5))
    monkeypatch.setattr(sys, "argv", ["cpu_layers", str(checkpoints["tiny-lstm"]), "--dtypes", "float32", "--seconds", "0.01"])
    threads = torch.get_num_threads()
    cpu_layers.main()
    torch.set_num_threads(threads)
    assert {KernelLstm} in layers
    assert {nn.LSTM} in layers
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["1", "5"]
    assert all(float(row[5]) < 1e-5 and float(row[3]) > 0 for row in rows)
