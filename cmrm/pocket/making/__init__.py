"""How the pocket model is made: architecture, training, tuning."""
