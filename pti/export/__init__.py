"""Files for other tools: embedding, LoRA, model card."""
