"""One module per command that writes no artifact of its own; each has ``execute(call)``.

A module is imported when its command runs, and imports its workflow in turn.
"""
