"""Both training stages: textual inversion, then LoRA tuning."""
