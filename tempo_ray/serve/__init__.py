"""Model folders -> an OpenAI-compatible endpoint."""
