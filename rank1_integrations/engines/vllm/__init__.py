"""vLLM in this process: the engine, the pool of loaded models, the watchdog."""
