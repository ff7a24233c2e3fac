"""Which samples may join a training set. Rules are plain functions over features and labels."""
