"""The diffusion pipeline: networks, placeholder token, prompt embeddings, LoRA, sampling."""
