"""Training images, captions and latents."""
