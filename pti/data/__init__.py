"""Training images and captions, and the latents that are made of them."""
