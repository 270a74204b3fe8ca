"""Published weights: where they come from, their download and their conversion."""
