"""The command line: thin, and light to import (``--help`` loads neither torch nor ray)."""
