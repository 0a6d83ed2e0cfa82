"""What Valence is compared with: stand-alone servers, each set up as its own documentation recommends.

The benchmark starts them as commands and imports none of them. `stock_litserve`, `fastapi_pipeline`, `onnx_int8`, `infinity`,
`ray_serve` and `vllm_cpu` are the servers, `command_line` is what they share. `convert`, `onnx_export`, `random_model` and
`reference` prepare checkpoints and answers for them.
"""
