"""OpenAI-compatible servers: connection, capabilities, log-probabilities."""
