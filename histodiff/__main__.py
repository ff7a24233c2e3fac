"""``python -m histodiff`` and the ``histodiff`` script."""

from histodiff.cli.app import main

if __name__ == "__main__":
    main()
