"""Videos -> preference pairs."""
