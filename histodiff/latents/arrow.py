"""Row numbers and tables of Arrow on their way, without pandas.

``pa.array`` of a NumPy array imports pandas, and so does Ray to pickle a table, which takes every
reader and encoder a second.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def arrow_numbers(numbers: npt.NDArray[np.int64]) -> pa.Array:
    """The same numbers, in the same memory where they lie end to end."""
    numbers = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def arrow_stream(table: pa.Table) -> pa.Buffer:
    """The table as one piece of memory; ``pa.ipc.open_stream`` reads it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
