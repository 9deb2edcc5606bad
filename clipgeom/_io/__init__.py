"""Files: atomic writing, safetensors, downloads."""
