"""The pivotal-tuning trainer."""
