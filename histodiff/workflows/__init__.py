"""One module or package per command: each composes the layers below and nothing else.

``registry`` names every command that writes an artifact; modules are imported when they are used.
"""
