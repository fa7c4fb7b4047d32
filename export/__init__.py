"""edgetune on the server: from a timm backbone to a tap-and-sum ONNX graph."""
