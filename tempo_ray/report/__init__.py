"""What a run left behind -> human-readable tables and pictures."""
