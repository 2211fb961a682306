"""How the demonstration model is made: text, pairs, tokenizer, model, training, measurement."""
