"""Accuracy of other ways to adapt a frozen backbone, on the same features."""
