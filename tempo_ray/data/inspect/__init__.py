"""What reads a finished run: explain a pair, export pairs, rank videos."""
