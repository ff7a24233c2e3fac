"""Near duplicates: which patches, or slides, show the same tissue."""
