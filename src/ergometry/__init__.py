"""ergometry."""
