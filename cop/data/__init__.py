"""Images from any source, and their tokens."""
