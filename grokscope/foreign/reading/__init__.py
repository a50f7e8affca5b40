"""One file in, plain data out: weights that a stranger made, read without running any of their code."""
