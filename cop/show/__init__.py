"""Data in, picture out: figures, tables, cards, the gallery, widgets and the book. Nothing here loads or trains."""
