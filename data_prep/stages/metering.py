"""What reading a shard took, on its way from the readers through the encoder to the driver.

Readers are many processes, and are killed when there is no more to read; what they read is counted
with the blocks that they give.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from histodiff.data_prep.stages.encode import EncodedShard
from histodiff.latents import ShardUnit
from histodiff.runtime import Encoder, PixelBlock, ReadBytes


@dataclass(frozen=True)
class MeteredShard(EncodedShard):
    """A committed shard, and what reading its patches took."""

    read: ReadBytes


class MeteredEncoder:
    """An encoder that counts what reading its blocks took.

    Args:
        make_encoder: Makes the encoder, which is given all other arguments.
    """

    def __init__(
        self,
        make_encoder: Callable[..., Encoder[ShardUnit, EncodedShard]],
        *arguments: object,
        **options: object,
    ) -> None:
        self._encoder = make_encoder(*arguments, **options)

    def run(self, unit: ShardUnit, blocks: Iterable[PixelBlock]) -> MeteredShard:
        """Encodes and commits a shard; may be called by several threads, as the encoder may."""
        read: list[ReadBytes] = []
        shard = self._encoder.run(unit, _counted(blocks, read))
        return MeteredShard(**vars(shard), read=sum(read, ReadBytes()))


def _counted(blocks: Iterable[PixelBlock], read: list[ReadBytes]) -> Iterator[PixelBlock]:
    for block in blocks:
        read.append(block.read)
        yield block
