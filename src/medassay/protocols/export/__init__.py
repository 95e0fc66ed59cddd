"""A classifier as an ONNX file."""
