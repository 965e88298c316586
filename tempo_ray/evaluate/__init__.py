"""An endpoint and a benchmark's questions -> scores, and paired comparisons of models."""
