"""One module a peer: `trainer(problem, threads)` makes what benchmarks/peers/worker.py serves."""
