"""TensorBoard's event files, read without the code that wrote them."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def events(folder: Path) -> list[Event]:
    """Every event in the folder: records of length, crc, data, crc (the TFRecord format)."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Every point: curve, clock, value."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]
