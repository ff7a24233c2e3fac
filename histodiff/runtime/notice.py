"""Notice that a process will have to go: what a long computation looks at between two steps."""

from enum import IntEnum


class Notice(IntEnum):
    """What is asked for; the greater counts where several ranks were told different things."""

    NONE = 0
    SAVE = 1
    """The node may go soon: make a checkpoint and go on."""
    LEAVE = 2
    """Make a checkpoint and end."""
