"""Qwen2-architecture models in Flax linen: configuration, modules, cache, weights in and out, tokenizer."""
