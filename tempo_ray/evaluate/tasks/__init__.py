"""One file per benchmark: what is asked, and when an answer is right."""
