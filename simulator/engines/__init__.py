"""What answers: scripted text, or a small real model on the CPU."""
