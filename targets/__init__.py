"""What Tapeout builds for: target files, gates, the statuses, and what this machine has."""
