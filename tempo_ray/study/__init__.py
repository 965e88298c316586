"""A declared table of arms x seeds -> runs of the jobs -> one table of paired differences."""
