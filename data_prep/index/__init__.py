"""The PatchIndex: which patches there are, of which slides, how they are read and split."""
