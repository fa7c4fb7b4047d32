"""A backbone as a model of NVIDIA Triton Inference Server."""
