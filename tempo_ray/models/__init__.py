"""Video LLMs: families, checks, frames, positions, model input, and the vLLM engine."""
