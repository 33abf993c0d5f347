"""Text generation, chat, and the OpenAI-compatible API."""
