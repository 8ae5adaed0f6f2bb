"""Turn the ONNX hub into a quantized hub."""
