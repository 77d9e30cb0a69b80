"""Text and values in files that may be hostile: names, JSON, YAML, pickles looked at, and checksums of ONNX files."""
