def test_probe(exported, surface, tmp_path):
    from visionlora.quantization import quantize
    q = quantize(exported.path, surface, tmp_path / "o.onnx")
    print(q, q.bytes / q.float_bytes)
