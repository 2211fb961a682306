"""One (query, passage) pair: prompt, steps, cache, deadline, usage."""
