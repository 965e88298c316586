"""What a run left -> tables and pictures for people."""
