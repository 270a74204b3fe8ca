"""The paper's objects, one file each: tensors, and configurations of their own; of files only state dicts, by path."""
