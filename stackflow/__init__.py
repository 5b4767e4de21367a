"""The module's protocol: bytes, messages, sessions, and who may use which when. No word of HTTP or OpenAI."""
