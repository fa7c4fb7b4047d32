"""`python -m edge_runtime.cli` is `edgetune`."""

from edge_runtime.cli import main

if __name__ == "__main__":
    main(prog_name="edgetune")
