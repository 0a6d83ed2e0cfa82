"""A BERT-like classifier as an ONNX graph with int8 weights, by ONNX Runtime's dynamic quantization.

python -m load_tests.peers.onnx_export --model /tmp/plain-bert --to /tmp/bert-int8.onnx
"""

import argparse
import tempfile
from pathlib import Path

import onnx  # type: ignore[import-not-found]
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-not-found]
from transformers import AutoModelForSequenceClassification

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Of all matrix products this one loses most precision in int8. In float32 the mean error of a probability falls from 0.0195 to
# 0.0167 on 256 texts of load_tests.texts, for 4% of the speed.
FLOAT32_NODE = "layer.0/output/dense/MatMul"


def export(model: Path, to: Path) -> None:
    """Writes the graph, with dynamic batch and length. Its matrix products have int8 weights with a scale for each channel."""
    # Of the ways measured (TorchScript or dynamo exporter, eager or sdpa attention, fused before or at load) this is the fastest:
    # ONNX Runtime recognizes eager attention of the TorchScript exporter, and fuses it when the graph is loaded.
    source = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]])
    axes = {0: "batch", 1: "length"}
    with tempfile.TemporaryDirectory() as folder:
        unquantized = Path(folder) / "float32.onnx"
        torch.onnx.export(
            source,
            (ids, (ids != 0).long(), torch.zeros_like(ids)),
            str(unquantized),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes=dict.fromkeys(INPUTS, axes) | {"logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
        # 7 bits where products of 8 bits saturate, as the documentation of the quantizer asks for
        quantize_dynamic(
            unquantized,
            to,
            per_channel=True,
            reduce_range=not has_vnni(),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in onnx.load(unquantized).graph.node if node.name.endswith(FLOAT32_NODE)],
        )


def has_vnni() -> bool:
    """Whether the processor adds up products of 8 bits without saturation."""
    return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def main() -> None:
    """Writes one file."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers.onnx_export")
    parser.add_argument("--model", type=Path, required=True, help="folder of one of transformers' own architectures")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    export(options.model, options.to)


if __name__ == "__main__":
    main()
