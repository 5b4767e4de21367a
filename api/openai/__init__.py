"""The OpenAI dialect, `/v1`: parse, call one backend, render."""
