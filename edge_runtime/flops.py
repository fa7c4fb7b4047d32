"""MACs, counted from the operations of a program.

One MAC is two FLOPs. Matrix products alone count; elementwise work (exp, LayerNorm, the optimiser)
does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime import ops
from edge_runtime.program import Array, Program

FLOPS_PER_MAC = 2


def program_macs(program: Program) -> int:
    """MACs of one run of a program."""
    return sum(operation_macs(f, arguments) for f, arguments in program.operations)


def operation_macs(function: Any, arguments: tuple[Any, ...]) -> int:
    """MACs of one operation: for a product, entries of the result x length of a sum."""
    if function is np.matmul:
        left, _, out = arguments
        return int(out.size * left.shape[-1])
    if function is ops.times_transposed:
        square: Array = arguments[1]
        return int(arguments[-1].size * square.shape[-1])
    return 0
