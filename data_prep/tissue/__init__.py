"""Where the tissue is, what lies on it besides, and what people have drawn around it."""
