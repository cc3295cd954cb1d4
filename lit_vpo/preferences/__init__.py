"""How preference pairs come to be: perturbations of the video, and pairs of answers with their filters."""
