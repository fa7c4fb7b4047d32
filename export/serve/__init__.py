"""The server: a backbone behind the Open Inference Protocol (KServe v2), without torch."""
