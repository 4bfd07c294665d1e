"""What matched autoencoders have in common."""
