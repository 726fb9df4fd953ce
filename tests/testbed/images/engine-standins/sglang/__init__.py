"""Stand-in for SGLang."""
