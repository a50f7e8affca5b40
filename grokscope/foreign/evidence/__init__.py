"""What a rebuild is worth: the proof against recorded numbers, and the audit of what is odd."""
