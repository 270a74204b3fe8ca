"""One training loop, and artefacts: stored, found again, and shared by many processes."""
