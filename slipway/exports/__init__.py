"""How a model leaves Python: as an exported program, as TorchScript, as ONNX."""
