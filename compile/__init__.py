"""Turn a quantized hub into the package that one device loads."""
