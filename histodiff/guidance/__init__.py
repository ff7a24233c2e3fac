"""Training of guides: what turns a few labels into a direction for sampling."""
