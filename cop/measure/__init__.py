"""Numbers: metrics with their intervals, and what a network costs."""
