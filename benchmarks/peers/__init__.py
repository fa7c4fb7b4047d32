"""Training the same adaptor with every framework that can: `python -m benchmarks.peers`."""
