"""Workers of the preparation of data."""
