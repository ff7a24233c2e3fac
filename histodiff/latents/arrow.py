"""Row numbers for Arrow, without pandas.

``pa.array`` of a NumPy array imports pandas, which takes every reader and encoder a second.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def arrow_numbers(numbers: npt.NDArray[np.int64]) -> pa.Array:
    """The same numbers, in the same memory where they lie end to end."""
    numbers = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])
