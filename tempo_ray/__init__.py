"""TEMPO on Ray: raw videos in, a Video LLM that knows the order of events out."""
