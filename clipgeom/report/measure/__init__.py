"""What a report measures."""
