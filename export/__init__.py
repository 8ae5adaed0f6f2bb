"""Turn a source (Hugging Face folder, hub id, GGUF, catalog name) into the ONNX hub."""
