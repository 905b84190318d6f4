"""What the Makefile does beyond a line of shell. Needs Python's standard library only."""
