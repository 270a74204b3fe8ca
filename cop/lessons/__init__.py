"""What the notebooks call: every stage loaded or trained, its claims measured, its tables made."""
