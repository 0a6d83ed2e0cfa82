"""What a served model computes with on a CPU in the place of torch's own layers and attention."""
