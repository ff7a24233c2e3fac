"""Workers of the tile and encode commands."""
