"""Video LLMs: loading, processing, positions, and the vLLM engine."""
