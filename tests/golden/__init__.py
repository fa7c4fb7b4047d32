"""Figures that PyTorch gave, kept for machines without it."""
