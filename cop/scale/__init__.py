"""What paper scale needs beside: the plan, memory, the command line of the stages."""
